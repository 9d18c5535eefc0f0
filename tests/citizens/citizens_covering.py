"""Which models hold every class of module, so that what takes a second each is tried on these."""

COVERING = (
    "grounding-dino", "oneformer", "phi4_multimodal", "sam2", "vits", "zoedepth, domains", "florence2",
    "wav2vec2-conformer", "rt_detr_v2", "mimi", "clap", "qwen3_omni_moe_thinker", "segformer", "maskformer", "speecht5",
    "blip-2, T5", "detr, outlines", "beit, segments", "sam", "depth_anything", "bit", "falcon_h1",
    "speech-encoder-decoder", "owlvit, detector", "qwen3_next", "encodec", "bridgetower, words", "convnextv2",
    "mobilenet_v2", "qwen2_audio", "data2vec-audio", "audio-spectrogram-transformer", "sew-d", "vit_mae", "yolos",
    "swinv2", "conditional_detr", "gemma3, seeing", "mistral3", "mamba", "lxmert", "layoutlmv3", "timesformer",
    "siglip2", "deformable_detr", "internvl", "idefics3", "voxtral", "qwen2_5_omni_thinker", "deberta-v2, rows",
    "distilbert", "deepseek_v3", "gpt2, two heads", "whisper", "unispeech-sat", "videomae", "dinov3_vit", "clipseg",
    "blip", "vision-encoder-decoder", "blip-2, scores", "instructblip, states", "mask2former", "dpt, segments", "esm",
    "stablelm", "olmo2", "modernbert-decoder", "marian", "vilt", "altclip", "timm_backbone", "paligemma",
    "llava_onevision", "vipllava", "qwen2_vl", "qwen3_vl_moe", "mpnet", "albert", "gpt_oss", "granite", "bamba",
    "bert, choices", "umt5, rows", "moonshine", "wav2vec2", "wav2vec2, rows", "hubert", "wavlm", "donut-swin", "sew",
    "bridgetower", "vilt, rows", "beit", "upernet", "owlv2", "siglip", "blip, answers", "blip, pairs", "blip, matches",
    "blip-2, matches", "blip-2, texts", "blip-2, findings", "clap, sounds", "table-transformer", "dpt", "zoedepth",
    "dinov3_convnext", "llava", "llava_next", "esm, rows", "gptj", "gpt_neox", "modernbert, choices", "olmo", "m2m_100",
    "blenderbot-small", "olmoe", "granitemoe", "phimoe",
)  # fmt: skip
"""The first hold most. A test says which class is missing; `citizens.chosen()` chooses anew, as few as will do."""
