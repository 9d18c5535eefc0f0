"""The processors of Qwen2.5-Omni and Qwen3-Omni: pictures, films and sounds among words, films with their sounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self, cast

import numpy as np
import numpy.typing as npt
from torch import Tensor

from omniform.core.batch import Batch, Modality
from omniform.core.errors import InputError
from omniform.core.turns import turns
from omniform.inputs.audio import FeatureExtractor, load_audio
from omniform.inputs.images import ImageProcessor
from omniform.inputs.images.load import ImageSource
from omniform.inputs.images.packed import PackedImageProcessor
from omniform.inputs.images.processor import ImageInput
from omniform.inputs.media_access import checked_access
from omniform.inputs.processors.base import InputPart, PartName, Parts
from omniform.inputs.processors.media import Media, films, is_encoded, sounds
from omniform.inputs.processors.options import CallOptions
from omniform.inputs.processors.placed import PlacedProcessor, Slot, Taken
from omniform.inputs.processors.speech import waves_of
from omniform.inputs.spans import PlacedItem
from omniform.inputs.text.encoding import Edit
from omniform.inputs.text.settings import ChatTemplates
from omniform.inputs.text.template import Prompt
from omniform.inputs.text.tokenizer import Tokenizer
from omniform.inputs.videos.packed import PackedVideoProcessor
from omniform.inputs.videos.processor import VideoProcessor

if TYPE_CHECKING:
    from omniform.inputs.audio.load import AudioSource

TRACKS = "load_audio_from_video"
OLD_TRACKS = "use_audio_in_video"
SOURCES = "audio_from_video_indices"
OWN = (TRACKS, OLD_TRACKS, SOURCES, "seconds_per_chunk", "position_id_per_seconds", "n_window")
"""What a call may ask of the processor itself."""


@dataclass(frozen=True, slots=True)
class Track:
    """The sound of a film, among the sounds of a call.

    Attributes:
        sound: the sound.
        film: the film's number among those of the call.
    """

    sound: object
    film: int


@dataclass(frozen=True, slots=True)
class HeardSounds(Taken):
    """Sounds of which some are films'.

    Attributes:
        tracks: the number of the sound of each film that has one.
    """

    tracks: Mapping[int, int] | None = None


@dataclass(frozen=True, slots=True)
class TimedFilms(Taken):
    """Films whose tokens have times, counted in those of sounds.

    Attributes:
        times: of the tokens of each film.
        chunk: tokens of sound in a chunk.
    """

    times: Sequence[npt.NDArray[np.float64]] = ()
    chunk: int = 1


class OmniProcessor(PlacedProcessor):
    """Texts with pictures, films and sounds in them. A film may stand among the tokens of its own sound.

    Args:
        image_processor: of the pictures.
        video_processor: of the films.
        feature_extractor: of the sounds.
        tokenizer: of the texts; it names an ``image_token``, ``audio_token`` and ``video_token``, and what opens and
            closes sounds.
        chat_template: the template for conversations; by default the tokenizer's.

    Raises:
        ConfigError: the tokenizer does not know one of these tokens.
        InputError: a part is of another kind.
    """

    needs: ClassVar[tuple[PartName, ...]] = ("image_processor", "video_processor", "feature_extractor", "tokenizer")
    pixels: ClassVar[int]
    """Pixels of a token of a film, by which its usual size goes."""
    usual_rate: ClassVar[float]
    """Frames a second that were taken of a film, where the call does not say."""
    padding: ClassVar[bool | str]
    """How sounds are brought to one length."""
    seconds_per_chunk: float = 2.0
    position_id_per_seconds: float
    n_window: int = 50

    def __init__(
        self,
        image_processor: ImageProcessor,
        video_processor: VideoProcessor,
        feature_extractor: FeatureExtractor,
        tokenizer: Tokenizer,
        chat_template: ChatTemplates = None,
    ) -> None:
        for part, kind, where in (
            (image_processor, PackedImageProcessor, "image_processor"),
            (video_processor, PackedVideoProcessor, "video_processor"),
        ):
            if not isinstance(part, kind):
                raise InputError("this cuts no patches", where=where, found=type(part).__name__)
        named = tokenizer.named_token
        self.image_token = named("image_token") or "<|image_pad|>"
        self.audio_token = named("audio_token") or "<|audio_pad|>"
        self.video_token = named("video_token") or "<|video_pad|>"
        self.vision_bos_token = named("vision_bos_token") or "<|vision_start|>"
        self.vision_eos_token = named("vision_eos_token") or "<|vision_end|>"
        self.audio_bos_token = named("audio_bos_token") or "<|audio_start|>"
        self.audio_eos_token = named("audio_eos_token") or "<|audio_end|>"
        slots = [
            Slot("image", self.image_token, self.image_token),
            Slot("video", self.video_token, self.video_token),
            Slot("audio", self.audio_token, self.audio_token),
        ]
        super().__init__(tokenizer, slots, chat_template=chat_template)
        self.image_processor = cast(PackedImageProcessor, image_processor)
        self.video_processor = cast(PackedVideoProcessor, video_processor)
        self.feature_extractor = feature_extractor
        self.placeholder = self.image_token
        self.image_token_id, self.video_token_id = self._ids["image"], self._ids["video"]
        self.audio_token_id = self._ids["audio"]

    @classmethod
    def from_parts(cls, parts: Parts) -> Self:
        """Build the processor of a folder."""
        assert parts.image_processor is not None and parts.video_processor is not None
        assert parts.feature_extractor is not None
        return cls(
            parts.image_processor, parts.video_processor, parts.feature_extractor, parts.tokenizer, parts.chat_template
        )

    # ---- the call

    # The base takes any keyword in its signature.
    def __call__(  # type: ignore[override]
        self,
        text: str | Sequence[str] | None = None,
        images: ImageInput | Sequence[Sequence[ImageSource]] | None = None,
        videos: object = None,
        audio: object = None,
        **options: object,
    ) -> Batch:
        """Turn texts and the pictures, films and sounds in them into the model's inputs.

        Args:
            text: a text or several, with a placeholder for each picture, film and sound.
            images: the pictures of all rows in reading order, or one list for each row.
            videos: the films of all rows in reading order.
            audio: the sounds of all rows in reading order: files, ``(samples, rate)`` pairs or waves.
            options: of the tokenizer, the image and the video processor and the feature extractor, flat or as
                ``text_kwargs``, ``images_kwargs``, ``videos_kwargs`` and ``audio_kwargs``; and of the processor itself:

                * ``load_audio_from_video``: films stand among the tokens of their own sounds, which are read from their
                  files (a film without sound stands alone). Give the model ``use_audio_in_video=True`` then.
                * ``audio_from_video_indices``: what each sound of the batch is, in reading order: None for one with a
                  placeholder of its own, i for that of ``videos[i]``. Needed where films with sound and other sounds
                  come together. If ``audio`` has as many entries, films' sounds are taken from it.
                * ``position_id_per_seconds``: tokens of sound in a second; ``seconds_per_chunk``, ``n_window``: as the
                  model's config has them.

        Returns:
            ``input_ids`` and ``attention_mask``, Shape: [B, T]; ``pixel_values``, ``image_grid_thw``,
            ``pixel_values_videos``, ``video_grid_thw``, ``video_second_per_grid``, ``input_features`` and
            ``feature_attention_mask`` of what there is.

        Raises:
            InputError: there is no text; a row has more or fewer placeholders than items; it is not said whose the
                sounds are; or an input cannot be used.
            RepoError: a file or an address cannot be read.
            UnknownArgumentError: there is no such option.
        """
        if text is None:
            raise InputError("there is no text", where="text", expected="a text or several")
        given = _lifted(options)
        load = bool(given.get(TRACKS)) or bool(given.get(OLD_TRACKS))
        if load and videos is not None:
            audio = self._with_tracks(videos, audio, given)
            audio = audio or None  # all films may be silent
        return self._placed(text, {"image": images, "video": videos, "audio": audio}, given, OWN)

    def _with_tracks(self, videos: object, audio: object, options: Mapping[str, object]) -> list[object]:
        """The sounds of a call in reading order, those of films marked as such."""
        shown = films(videos)
        heard = [] if audio is None else sounds(audio)
        told = cast("Sequence[int | None] | None", options.get(SOURCES))
        if told is None:
            if heard:
                raise InputError(
                    "it is not said which sounds are films'",
                    where=SOURCES,
                    expected="None for each sound of its own, a film's number for each film's, in reading order",
                )
            told = list(range(len(shown)))
        if any(of is not None and not 0 <= of < len(shown) for of in told):
            raise InputError("there is no such film", where=SOURCES, expected=f"0 to {len(shown) - 1}", found=told)
        if len(heard) == len(told):
            return [one if of is None else Track(one, of) for one, of in zip(heard, told, strict=True)]
        if sum(of is None for of in told) != len(heard):
            raise InputError(
                "not one entry per sound", where=SOURCES, expected=f"{len(heard)} times None", found=list(told)
            )
        alone = iter(heard)
        rate, access = self.feature_extractor.sampling_rate, checked_access(options.get("media_access"))
        found: list[object] = []
        for of in told:
            if of is None:
                found.append(next(alone))
                continue
            film = shown[of]
            if not is_encoded(film):
                raise InputError(
                    "the sound of a film is read from its file",
                    where=f"videos[{of}]",
                    expected=f"a file, or one sound in audio for each entry of {SOURCES}",
                    found=type(film).__name__,
                )
            try:
                found.append(Track((load_audio(cast("AudioSource", film), rate, media_access=access), rate), of))
            except InputError:
                continue  # it is silent; a file that cannot be read at all is refused with its pictures
        return found

    def _options(self, given: Mapping[str, object], own: tuple[str, ...] = ()) -> CallOptions:
        asked = super()._options(given, own)
        asked.text.setdefault("padding_side", "left")
        if asked.audio.get("padding") is None or self.padding == "max_length":
            asked.audio["padding"] = self.padding
        if self.padding is True:
            asked.audio.setdefault("truncation", False)
        asked.audio["return_attention_mask"] = True
        if not {"size", "min_pixels", "max_pixels"} & set(asked.videos):
            asked.videos["size"] = {"shortest_edge": 128 * self.pixels, "longest_edge": 768 * self.pixels}
        return asked

    def _check_counts(
        self,
        rows: Sequence[str],
        items: Mapping[Modality, Sequence[object]],
        counts: Mapping[Modality, Sequence[int] | None],
    ) -> None:
        alone = [sound for sound in items.get("audio", ()) if not isinstance(sound, Track)]
        super()._check_counts(rows, {**items, "audio": alone}, counts)

    def _take(self, modality: Modality, media: Sequence[object], asked: CallOptions) -> Taken:
        if modality == "image":
            seen = self.image_processor(cast(ImageInput, media), **asked.images)  # type: ignore[arg-type]
            unit = (self.image_processor.merge_size or 1) ** 2
            return Taken(seen, [self.image_token * (int(np.prod(grid)) // unit) for grid in _grids(seen)])
        if modality == "video":
            return self._filmed(media, asked)
        return self._heard(media, asked)

    def _filmed(self, media: Sequence[object], asked: CallOptions) -> Taken:
        seen = self.video_processor(media, **asked.videos)  # type: ignore[arg-type]
        merge = cast("int | None", self.video_processor.merge_size) or 1
        time = cast("int | None", self.video_processor.temporal_patch_size) or 1
        seconds = time / (cast("float | None", asked.videos.get("fps")) or self.usual_rate)
        pace = float(cast(float, asked.own.get("position_id_per_seconds", self.position_id_per_seconds)))
        chunk = float(cast(float, asked.own.get("seconds_per_chunk", self.seconds_per_chunk)))
        grids = _grids(seen, "video_grid_thw")
        times = [
            np.repeat(np.arange(steps, dtype=np.float64), (rows // merge) * (columns // merge)) * seconds * pace
            for steps, rows, columns in grids
        ]
        entries = {**seen, "video_second_per_grid": [seconds] * len(grids)}
        return TimedFilms(entries, [self.video_token * len(of) for of in times], times, int(pace * chunk))

    def _heard(self, media: Sequence[object], asked: CallOptions) -> Taken:
        given = [one.sound if isinstance(one, Track) else one for one in media]
        waves = waves_of(given, self.feature_extractor.sampling_rate, asked.audio)
        heard = dict(self.feature_extractor(waves, **asked.audio))  # type: ignore[arg-type]
        mask = heard["feature_attention_mask"] = heard.pop("attention_mask")
        window = int(cast(int, asked.own.get("n_window", self.n_window)))
        lengths = [int(row.sum()) for row in cast("Tensor", mask)]
        tracks = {one.film: number for number, one in enumerate(media) if isinstance(one, Track)}
        return HeardSounds(heard, [self.audio_token * self.tokens(length, window) for length in lengths], tracks)

    @classmethod
    def tokens(cls, frames: int, window: int = 50) -> int:
        """How many tokens a sound of so many frames takes.

        Args:
            window: half the frames that the model's sound tower reads at once.
        """
        raise NotImplementedError

    @staticmethod
    def order(film: npt.NDArray[np.float64], sound: int, chunk: int) -> list[bool]:
        """Which of the tokens of a film and its sound are the film's, in the order in which they stand.

        Args:
            film: the times of the film's tokens, counted in those of the sound.
            sound: how many the sound has.
            chunk: tokens of sound in a chunk.
        """
        raise NotImplementedError

    def _expanded(
        self, rows: Sequence[str], taken: Mapping[Modality, Taken]
    ) -> tuple[list[str], list[list[PlacedItem]], tuple[tuple[Edit, ...], ...]]:
        shown, heard = taken.get("video"), taken.get("audio")
        if isinstance(shown, TimedFilms) and isinstance(heard, HeardSounds) and heard.tracks:
            # A film's marker becomes both, and the placeholders of its sound are found in what it becomes.
            own = list(shown.expansions)
            for film, sound in heard.tracks.items():
                length = heard.expansions[sound].count(self.audio_token)
                seen = self.order(shown.times[film], length, shown.chunk)
                own[film] = "".join(
                    (
                        self.audio_bos_token,
                        *(self.video_token if of_film else self.audio_token for of_film in seen),
                        self.audio_eos_token,
                    )
                )
            taken = {**taken, "video": Taken(shown.entries, own)}
        return super()._expanded(rows, taken)

    # ---- chat

    def apply_chat_template(self, conversation: Sequence[object], *args: Any, **options: Any) -> Any:
        """See :meth:`omniform.inputs.processors.base.Processor.apply_chat_template`; a call's options are taken too."""
        own = {name: options.pop(name) for name in OWN if name in options}
        if own:
            options["processor_kwargs"] = {**(options.get("processor_kwargs") or {}), **own}
        return super().apply_chat_template(conversation, *args, **options)

    def encode_chats(
        self, prompts: Sequence[Prompt], media: Sequence[Media], many: bool, call: Mapping[str, object]
    ) -> Batch:
        call = dict(call)
        if (call.get(TRACKS) or call.get(OLD_TRACKS)) and call.get(SOURCES) is None and call.get("audio") is None:
            told: list[int | None] = []
            film = 0
            for kind in (kind for chat in media for kind in chat.order if kind != "image"):
                told.append(None if kind == "audio" else film)
                film += kind == "video"
            call[SOURCES] = told
        return super().encode_chats(prompts, media, many, call)

    # ---- back

    def post_process_image_text_to_text(  # type: ignore[override] # of whatever a model gave
        self, generated_outputs: object, skip_special_tokens: bool = True, **kwargs: object
    ) -> str | list[str]:
        """The texts that a model wrote; of ids, or of the pair of ids and speech that it gives."""
        if isinstance(generated_outputs, (tuple, list)) and isinstance(generated_outputs[0], Tensor):
            generated_outputs = generated_outputs[0]
        return self.tokenizer.batch_decode(generated_outputs, skip_special_tokens, **kwargs)  # type: ignore[arg-type]

    def post_process_multimodal_output(
        self,
        generated_outputs: object,
        skip_special_tokens: bool = True,
        generation_mode: str | None = None,
        **kwargs: object,
    ) -> str | list[str] | list[npt.NDArray[np.float32]]:
        """The texts that a model wrote, or with ``generation_mode="audio"`` the waves that it spoke, one per row.

        Raises:
            InputError: it writes no such thing.
        """
        if generation_mode is None or generation_mode == "text":
            return self.post_process_image_text_to_text(generated_outputs, skip_special_tokens, **kwargs)
        if generation_mode != "audio":
            raise InputError(
                "it gives no such thing", where="generation_mode", expected="text or audio", found=generation_mode
            )
        spoken = cast("Sequence[object]", generated_outputs)[1]
        rows = spoken if isinstance(spoken, (list, tuple)) else [spoken]
        return [cast(Tensor, row).reshape(-1).detach().cpu().numpy() for row in rows]

    def get_chunked_index(self, token_indices: npt.NDArray[np.float64], tokens_per_chunk: int) -> list[tuple[int, int]]:
        """Where chunks of ever later tokens begin and end; a chunk ends with the first token of the next one's time."""
        return turns(token_indices.tolist(), tokens_per_chunk)

    # ---- what it is made of

    def _parts(self) -> dict[str, InputPart]:
        return {
            "image_processor": self.image_processor,
            "video_processor": self.video_processor,
            "feature_extractor": self.feature_extractor,
        }

    @property
    def model_input_names(self) -> list[str]:
        names = [
            *self.tokenizer.model_input_names,
            *self.feature_extractor.model_input_names,
            *self.image_processor.model_input_names,
            *self.video_processor.model_input_names,
            "feature_attention_mask",
            "video_second_per_grid",
        ]
        return list(dict.fromkeys(names))


class Qwen3OmniMoeProcessor(OmniProcessor):
    """Qwen3-Omni's: a film's tokens and its sound's stand in the order of their times."""

    pixels = 32 * 32
    usual_rate = 1.0
    padding = True
    position_id_per_seconds = 13.0

    @classmethod
    def tokens(cls, frames: int, window: int = 50) -> int:
        whole, rest = divmod(frames, 2 * window)
        for _ in range(3):
            rest = (rest - 1) // 2 + 1
        return rest + whole * 13

    @staticmethod
    def order(film: npt.NDArray[np.float64], sound: int, chunk: int) -> list[bool]:
        # The film's first where both have one time.
        times = np.concatenate((film, np.arange(sound)))
        return [bool(index < len(film)) for index in np.argsort(times, kind="stable")]


class Qwen2_5OmniProcessor(OmniProcessor):  # noqa: N801
    """Qwen2.5-Omni's: a film's tokens and its sound's take turns, some seconds of each."""

    pixels = 28 * 28
    usual_rate = 2.0
    padding = "max_length"
    position_id_per_seconds = 25

    @classmethod
    def tokens(cls, frames: int, window: int = 50) -> int:
        return ((frames - 1) // 2 + 1 - 2) // 2 + 1

    @staticmethod
    def order(film: npt.NDArray[np.float64], sound: int, chunk: int) -> list[bool]:
        shown, heard = turns(film.tolist(), chunk), turns(range(sound), chunk)
        found: list[bool] = []
        for turn in range(max(len(shown), len(heard))):
            for parts, seen in ((shown, True), (heard, False)):
                if turn < len(parts):
                    found += [seen] * (parts[turn][1] - parts[turn][0])
        return found


def _grids(batch: Mapping[str, object], name: str = "image_grid_thw") -> list[tuple[int, int, int]]:
    value = batch[name]
    rows = value.tolist() if isinstance(value, (Tensor, np.ndarray)) else cast("Sequence[Sequence[int]]", value)
    return [(int(time), int(down), int(across)) for time, down, across in rows]


def _lifted(options: Mapping[str, object]) -> dict[str, object]:
    """The options of a call, those of the processor itself taken out of the groups in which they used to come."""
    given = dict(options)
    for group in ("videos_kwargs", "audio_kwargs"):
        inner = given.get(group)
        if isinstance(inner, Mapping):
            given |= {name: value for name, value in inner.items() if name in OWN}
            given[group] = {name: value for name, value in inner.items() if name not in OWN}
    return given
