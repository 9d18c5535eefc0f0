"""Processors: rules that change the scores of the next token, by the ecosystem's names.

Each is a thin object around a function of scores; the engine's own sampling calls the same functions.
"""

from omniform.engine.processors.audio import AlternatingCodebooksLogitsProcessor as AlternatingCodebooksLogitsProcessor
from omniform.engine.processors.audio import BarkEosPrioritizerLogitsProcessor as BarkEosPrioritizerLogitsProcessor
from omniform.engine.processors.audio import DiaEOSChannelFilterLogitsProcessor as DiaEOSChannelFilterLogitsProcessor
from omniform.engine.processors.audio import DiaEOSDelayPatternLogitsProcessor as DiaEOSDelayPatternLogitsProcessor
from omniform.engine.processors.audio import WhisperNoSpeechDetection as WhisperNoSpeechDetection
from omniform.engine.processors.audio import WhisperTimeStampLogitsProcessor as WhisperTimeStampLogitsProcessor
from omniform.engine.processors.base import LogitsProcessor as LogitsProcessor
from omniform.engine.processors.base import LogitsProcessorList as LogitsProcessorList
from omniform.engine.processors.bias import NoBadWordsLogitsProcessor as NoBadWordsLogitsProcessor
from omniform.engine.processors.bias import SequenceBiasLogitsProcessor as SequenceBiasLogitsProcessor
from omniform.engine.processors.guidance import (
    ClassifierFreeGuidanceLogitsProcessor as ClassifierFreeGuidanceLogitsProcessor,
)
from omniform.engine.processors.guidance import (
    DiaClassifierFreeGuidanceLogitsProcessor as DiaClassifierFreeGuidanceLogitsProcessor,
)
from omniform.engine.processors.guidance import (
    UnbatchedClassifierFreeGuidanceLogitsProcessor as UnbatchedClassifierFreeGuidanceLogitsProcessor,
)
from omniform.engine.processors.length import ExponentialDecayLengthPenalty as ExponentialDecayLengthPenalty
from omniform.engine.processors.length import ForcedBOSTokenLogitsProcessor as ForcedBOSTokenLogitsProcessor
from omniform.engine.processors.length import ForcedEOSTokenLogitsProcessor as ForcedEOSTokenLogitsProcessor
from omniform.engine.processors.length import InfNanRemoveLogitsProcessor as InfNanRemoveLogitsProcessor
from omniform.engine.processors.length import LogitNormalization as LogitNormalization
from omniform.engine.processors.length import MinLengthLogitsProcessor as MinLengthLogitsProcessor
from omniform.engine.processors.length import MinNewTokensLengthLogitsProcessor as MinNewTokensLengthLogitsProcessor
from omniform.engine.processors.length import (
    SuppressTokensAtBeginLogitsProcessor as SuppressTokensAtBeginLogitsProcessor,
)
from omniform.engine.processors.length import SuppressTokensLogitsProcessor as SuppressTokensLogitsProcessor
from omniform.engine.processors.repetition import (
    EncoderNoRepeatNGramLogitsProcessor as EncoderNoRepeatNGramLogitsProcessor,
)
from omniform.engine.processors.repetition import (
    EncoderRepetitionPenaltyLogitsProcessor as EncoderRepetitionPenaltyLogitsProcessor,
)
from omniform.engine.processors.repetition import FrequencyPenaltyLogitsProcessor as FrequencyPenaltyLogitsProcessor
from omniform.engine.processors.repetition import HammingDiversityLogitsProcessor as HammingDiversityLogitsProcessor
from omniform.engine.processors.repetition import NoRepeatNGramLogitsProcessor as NoRepeatNGramLogitsProcessor
from omniform.engine.processors.repetition import PrefixConstrainedLogitsProcessor as PrefixConstrainedLogitsProcessor
from omniform.engine.processors.repetition import PresencePenaltyLogitsProcessor as PresencePenaltyLogitsProcessor
from omniform.engine.processors.repetition import RepetitionPenaltyLogitsProcessor as RepetitionPenaltyLogitsProcessor
from omniform.engine.processors.warpers import EpsilonLogitsWarper as EpsilonLogitsWarper
from omniform.engine.processors.warpers import EtaLogitsWarper as EtaLogitsWarper
from omniform.engine.processors.warpers import MinPLogitsWarper as MinPLogitsWarper
from omniform.engine.processors.warpers import TemperatureLogitsWarper as TemperatureLogitsWarper
from omniform.engine.processors.warpers import TopHLogitsWarper as TopHLogitsWarper
from omniform.engine.processors.warpers import TopKLogitsWarper as TopKLogitsWarper
from omniform.engine.processors.warpers import TopPLogitsWarper as TopPLogitsWarper
from omniform.engine.processors.warpers import TypicalLogitsWarper as TypicalLogitsWarper
from omniform.engine.processors.watermark import (
    SynthIDTextWatermarkLogitsProcessor as SynthIDTextWatermarkLogitsProcessor,
)
from omniform.engine.processors.watermark import SynthIDTextWatermarkState as SynthIDTextWatermarkState
from omniform.engine.processors.watermark import WatermarkLogitsProcessor as WatermarkLogitsProcessor
