// Pictures, sounds and videos, made into what the server reads.

const PICTURES = new Set(["image/png", "image/jpeg", "image/webp", "image/gif"]);
const SOUNDS = { "audio/wav": "wav", "audio/x-wav": "wav", "audio/wave": "wav", "audio/mpeg": "mp3", "audio/mp3": "mp3", "audio/flac": "flac", "audio/x-flac": "flac" };
const SIDE = 2048; // pixels of a picture's longer side: models read fewer
const RATE = 16000; // of what is recorded: what models of speech read
const LARGEST = 40e6; // bytes of one file

const dataURL = (blob) => new Promise((resolve, reject) => {
  const reader = new FileReader();
  reader.onload = () => resolve(reader.result);
  reader.onerror = () => reject(reader.error);
  reader.readAsDataURL(blob);
});

/** A file as an item of a message; throws an Error in words. */
export async function itemOf(file) {
  const kind = file.type.split(";")[0];
  if (kind.startsWith("image/")) return { kind: "image", name: file.name || "picture", url: await picture(file, kind) };
  if (kind.startsWith("audio/")) return { kind: "audio", name: file.name || "sound", ...(await sound(file, kind)) };
  if (kind.startsWith("video/")) {
    small(file);
    return { kind: "video", name: file.name || "video", url: await dataURL(file) };
  }
  throw new Error(`${file.name || "This"} is no picture, sound or video.`);
}

function small(file) {
  if (file.size > LARGEST) throw new Error(`${file.name || "This file"} is larger than ${LARGEST / 1e6} MB.`);
}

async function picture(file, kind) {
  const url = URL.createObjectURL(file);
  try {
    const image = new Image();
    image.src = url;
    try { await image.decode(); } catch { throw new Error(`${file.name || "This picture"} cannot be read here; try PNG or JPEG.`); }
    const width = image.naturalWidth || 1024, height = image.naturalHeight || 1024;
    const scale = Math.min(1, SIDE / Math.max(width, height));
    if (scale === 1 && PICTURES.has(kind) && file.size < 8e6) return await dataURL(file);
    const canvas = document.createElement("canvas");
    canvas.width = Math.max(1, Math.round(width * scale));
    canvas.height = Math.max(1, Math.round(height * scale));
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    return kind === "image/jpeg" ? canvas.toDataURL("image/jpeg", 0.92) : canvas.toDataURL("image/png");
  } finally {
    URL.revokeObjectURL(url);
  }
}

async function sound(file, kind) {
  small(file);
  if (kind in SOUNDS) return { format: SOUNDS[kind], url: await dataURL(file) };
  return { format: "wav", url: await dataURL(await waved(file)) };
}

/** Any sound that the browser reads as a WAV of one channel. */
export async function waved(blob) {
  const context = new OfflineAudioContext(1, 1, RATE); // decoding brings a sound to the rate of its context
  let heard;
  try { heard = await context.decodeAudioData(await blob.arrayBuffer()); } catch { throw new Error("This sound cannot be read here; try WAV or MP3."); }
  const mixed = new Float32Array(heard.length);
  for (let at = 0; at < heard.numberOfChannels; at += 1) {
    const one = heard.getChannelData(at);
    for (let i = 0; i < mixed.length; i += 1) mixed[i] += one[i] / heard.numberOfChannels;
  }
  return wav(mixed, RATE);
}

/** Samples as a WAV of 16 bits. Source: https://www.rfc-editor.org/rfc/rfc2361 and the RIFF specification. */
export function wav(samples, rate) {
  const view = new DataView(new ArrayBuffer(44 + 2 * samples.length));
  const text = (at, word) => [...word].forEach((letter, i) => view.setUint8(at + i, letter.charCodeAt(0)));
  text(0, "RIFF"); view.setUint32(4, 36 + 2 * samples.length, true); text(8, "WAVEfmt ");
  view.setUint32(16, 16, true); view.setUint16(20, 1, true); view.setUint16(22, 1, true);
  view.setUint32(24, rate, true); view.setUint32(28, 2 * rate, true); view.setUint16(32, 2, true); view.setUint16(34, 16, true);
  text(36, "data"); view.setUint32(40, 2 * samples.length, true);
  samples.forEach((value, i) => view.setInt16(44 + 2 * i, Math.max(-1, Math.min(1, value)) * 0x7fff, true));
  return new Blob([view], { type: "audio/wav" });
}

/** Records until told to stop; `stop` gives the item, `drop` forgets it. */
export async function record() {
  if (!navigator.mediaDevices?.getUserMedia) throw new Error("This browser records only on pages from this machine or over https.");
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ audio: true });
  } catch (error) {
    throw new Error(error.name === "NotFoundError" ? "No microphone is there." : "The microphone may not be used: allow it in the browser, then try again.");
  }
  const recorder = new MediaRecorder(stream), pieces = [];
  recorder.ondataavailable = (event) => pieces.push(event.data);
  const ended = new Promise((resolve) => { recorder.onstop = resolve; });
  recorder.start(250);
  const end = async () => {
    if (recorder.state !== "inactive") recorder.stop();
    await ended;
    stream.getTracks().forEach((track) => track.stop());
  };
  return {
    drop: end,
    async stop() {
      await end();
      return { kind: "audio", name: "recording", format: "wav", url: await dataURL(await waved(new Blob(pieces, { type: recorder.mimeType }))) };
    },
  };
}

/** An item as a part of a message. */
export function partOf(item) {
  if (item.kind === "image") return { type: "image_url", image_url: { url: item.url } };
  if (item.kind === "video") return { type: "video_url", video_url: { url: item.url } };
  return { type: "input_audio", input_audio: { data: item.url.slice(item.url.indexOf(",") + 1), format: item.format || "wav" } };
}
