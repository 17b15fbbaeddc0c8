// Pictures from videos and from the camera. A video stays in the browser: only its frames are sent.
import {Refusal} from "./requests.js";

export const MAX_VIDEO_FRAMES = 60;
const LONGEST_SIDE = 1920;  // of a picture, in pixels
const PATIENCE = 15000;  // milliseconds until the next picture of a video

// The frame that `video` shows, as a JPEG.
export function grab(video) {
  const scale = Math.min(1, LONGEST_SIDE / Math.max(video.videoWidth, video.videoHeight));
  const canvas = document.createElement("canvas");
  canvas.width = Math.round(video.videoWidth * scale);
  canvas.height = Math.round(video.videoHeight * scale);
  canvas.getContext("2d").drawImage(video, 0, 0, canvas.width, canvas.height);
  return new Promise(resolve => canvas.toBlob(resolve, "image/jpeg", 0.95));
}

// Yields a frame every second, or MAX_VIDEO_FRAMES of a longer video.
export async function* videoFrames(file) {
  const video = Object.assign(document.createElement("video"), {muted: true, playsInline: true, preload: "auto"});
  const url = URL.createObjectURL(file);
  try {
    await after(video, "loadeddata", () => { video.src = url; });
    // A recording of a browser may not state its length. The end is then the last time.
    if (!Number.isFinite(video.duration)) await seek(video, Number.MAX_SAFE_INTEGER);
    const length = Number.isFinite(video.duration) ? video.duration : video.currentTime;
    const every = Math.max(1, length / MAX_VIDEO_FRAMES);
    for (let n = 0; n === 0 || n * every < length; n++) {
      await seek(video, n * every);
      if (!video.videoWidth) throw new Refusal("video");  // only sound
      yield {name: clock(n * every), video: file.name, seconds: n * every, blob: await grab(video)};
    }
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    yield {name: file.name, refusal: error};
  } finally {
    video.removeAttribute("src");
    URL.revokeObjectURL(url);
  }
}

export const clock = seconds =>
  `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;

export async function openCamera(video) {
  const size = {ideal: LONGEST_SIDE};
  try {
    video.srcObject = await navigator.mediaDevices.getUserMedia({video: {facingMode: "environment", width: size}});
  } catch (error) {
    throw new Refusal(error.name === "NotAllowedError" ? "cameraRefused" : "cameraMissing", error.message);
  }
  await video.play();
}

export function closeCamera(video) {
  video.srcObject?.getTracks().forEach(track => track.stop());
  video.srcObject = null;
}

const seek = (video, seconds) => after(video, "seeked", () => { video.currentTime = seconds; });

// Starts something and waits for its event.
function after(video, event, start) {
  return new Promise((resolve, reject) => {
    const fail = () => reject(new Refusal("video"));
    const timer = setTimeout(fail, PATIENCE);
    video.addEventListener(event, () => { clearTimeout(timer); resolve(); }, {once: true});
    video.addEventListener("error", () => { clearTimeout(timer); fail(); }, {once: true});
    start();
  });
}
