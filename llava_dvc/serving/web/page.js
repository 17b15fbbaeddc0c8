// The service's page: takes frames, sends them to POST /count, and shows the answers.
import {drawDistribution, drawTimeline, percent} from "./charts.js";
import {closeCamera, grab, openCamera, videoFrames} from "./media.js";
import {countFrame, describeModel, keepCorrection, Refusal} from "./requests.js";
import {say, writeWords} from "./words.js";

const MAX_FRAMES = 200;
const AT_ONCE = 4;  // requests; the server counts 8 frames in a batch
const THUMBNAIL = 96;  // pixels

const byId = id => document.getElementById(id);
const make = (tag, text = "", ...children) => {
  const node = document.createElement(tag);
  node.textContent = text;
  node.append(...children);
  return node;
};

// A frame is {name, blob, seconds?, video?}, and gets `answer` or `refusal`, and `row`.
let frames = [];
let shown = null;
let run = 0;  // the answers of an earlier run are not shown

async function* framesOf(files) {
  for (const file of files)
    if (file.type.startsWith("video/")) yield* videoFrames(file);
    else yield {name: file.name, blob: file};
}

// Forgets all frames, and stops the run that counts them.
function clear() {
  run++;
  frames = [];
  byId("rows").replaceChildren();
  byId("timelines").replaceChildren();
  byId("several").hidden = true;
  show({});
  byId("count").classList.remove("waiting");
  byId("range").textContent = say("empty");
  document.querySelector("main").classList.add("empty");
  scrollTo(0, 0);
}

async function countFiles(files) {
  if (!files.length) return;
  hideCamera();
  clear();
  const own = run, hasVideo = files.some(file => file.type.startsWith("video/"));
  const total = hasVideo ? null : Math.min(files.length, MAX_FRAMES);
  byId("several").hidden = files.length === 1 && !hasVideo;
  showProgress(total);
  const source = framesOf(files), workers = [];
  for (let n = 0; n < AT_ONCE; n++) workers.push(countNext(source, own, total));
  await Promise.all(workers);
  if (own === run) showProgress(frames.length);
}

async function countNext(source, own, total) {
  for await (const frame of source) {
    if (own !== run) return;
    if (frames.length === MAX_FRAMES) {
      byId("timelines").append(make("p", say("tooMany", {most: MAX_FRAMES})));
      return;
    }
    frames.push(frame);
    addRow(frame);
    if (frames.length === 1) show(frame);
    await answerFrame(frame);
    if (own !== run) return;
    fillRow(frame);
    if (frame === shown) show(frame);
    showProgress(total);
  }
}

async function answerFrame(frame) {
  const start = performance.now();
  try {
    frame.answer = frame.refusal ? null : await countFrame(frame.blob);
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    frame.refusal = error;
  }
  frame.took = (performance.now() - start) / 1000;
}

function show(frame) {
  shown = frame;
  document.querySelector("main").classList.remove("empty");
  for (const {row} of frames) row.classList.toggle("shown", row === frame.row);
  showPicture(frame.blob);
  const {answer, refusal} = frame;
  byId("count").classList.toggle("waiting", !answer && !refusal);
  byId("count").textContent = answer ? answer.count : "–";
  byId("range").textContent = answer ? rangeText(answer) : say(refusal ? "notCounted" : "counting");
  byId("took").textContent = answer ? say("took", {seconds: frame.took.toFixed(2)}) : "";
  byId("unlike").hidden = !answer?.unlike_training;
  byId("zone").hidden = !answer?.zone;
  byId("zone").textContent = say("inZone", {zone: answer?.zone});
  byId("details").hidden = !answer;
  byId("correct").hidden = !answer || !byId("correct").dataset.allowed;
  byId("correction").textContent = say(frame.kept ? "kept" : "keepNote");
  byId("truth").value = frame.kept ?? "";
  showRefusal(refusal);
  if (!answer) return;
  byId("likely").replaceChildren(...answer.most_likely.slice(0, 3).map(likelyItem),
    make("li", say("mean", {mean: answer.expected.toFixed(1)})));
  drawDistribution(byId("chart"), answer);
}

function showPicture(blob) {
  const image = byId("frame");
  if (image.src) URL.revokeObjectURL(image.src);
  image.hidden = !blob;
  byId("invitation").hidden = Boolean(blob);
  byId("drop").classList.toggle("full", Boolean(blob));
  byId("outline").firstChild.setAttribute("points", "");
  if (blob) image.src = URL.createObjectURL(blob);
}

// Draws the zone in which the frame on show was counted.
byId("frame").addEventListener("load", ({target}) => {
  byId("outline").setAttribute("viewBox", `0 0 ${target.naturalWidth} ${target.naturalHeight}`);
  byId("outline").firstChild.setAttribute("points", shown.answer?.outline?.join(" ") ?? "");
});

// Not every file is a picture that the browser can show.
byId("frame").addEventListener("error", () => showPicture(null));

function showRefusal(refusal) {
  const [words, detail] = byId("error").children;
  byId("error").hidden = !refusal;
  if (refusal) document.querySelector("main").classList.remove("empty");
  words.textContent = refusal ? say(refusal.word) : "";
  detail.textContent = refusal?.message ?? "";
}

const noun = count => say(count === 1 ? "person" : "people");
const rangeText = ({count, low, high}) => say("range", {noun: noun(count), low, high});

function likelyItem({count, probability}) {
  const words = say("likelyItem", {count, noun: noun(count)});
  return make("li", "", make("span", words), make("span", percent(probability)));
}

function showProgress(total) {
  const done = frames.filter(frame => frame.answer).length;
  byId("progress").textContent = say(total === null ? "progressOpen" : "progress", {done, total});
  for (const name of new Set(frames.filter(frame => frame.video).map(frame => frame.video))) showTimeline(name);
}

function showTimeline(name) {
  const counted = frames.filter(frame => frame.video === name && frame.answer);
  if (!counted.length) return;
  let figure = [...byId("timelines").children].find(node => node.dataset.video === name);
  if (!figure) {
    figure = make("figure", "", make("figcaption"));
    figure.dataset.video = name;
    figure.append(document.createElementNS("http://www.w3.org/2000/svg", "svg"));
    byId("timelines").append(figure);
  }
  const counts = counted.map(frame => frame.answer.count);
  figure.firstChild.textContent = say("timeline", {name, least: Math.min(...counts), most: Math.max(...counts)});
  drawTimeline(figure.lastChild, counted.sort((one, other) => one.seconds - other.seconds));
  figure.querySelectorAll("circle").forEach((point, n) => point.addEventListener("click", () => show(counted[n])));
}

function addRow(frame) {
  const button = make("button", frame.name);
  button.addEventListener("click", () => {
    show(frame);
    scrollTo(0, 0);
  });
  frame.row = make("tr", "", make("td"), make("td", "", button), make("td", "…"), make("td"));
  byId("rows").append(frame.row);
}

async function fillRow({row, blob, answer, refusal}) {
  const [picture, , count, interval] = row.children;
  count.textContent = answer?.count;
  interval.textContent = answer ? say("ends", answer) : say(refusal.word);
  if (answer?.unlike_training) interval.append(" ", make("small", say("unlikeShort")));
  row.classList.toggle("bad", Boolean(refusal));
  count.hidden = Boolean(refusal);
  interval.colSpan = refusal ? 2 : 1;
  const bitmap = blob && await createImageBitmap(blob, {resizeWidth: THUMBNAIL}).catch(() => null);
  if (!bitmap) return;  // the browser cannot show it
  const canvas = Object.assign(document.createElement("canvas"), {width: bitmap.width, height: bitmap.height});
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  bitmap.close();
  picture.replaceChildren(canvas);
}

async function showCamera() {
  clear();
  if (!window.isSecureContext) {
    if (matchMedia("(pointer: coarse)").matches) byId("photo").click();  // a phone opens its own camera
    else showRefusal(new Refusal("cameraInsecure"));
    return;
  }
  try {
    await openCamera(byId("viewfinder"));
  } catch (error) {
    showRefusal(error);
    return;
  }
  byId("choose").hidden = true;
  byId("live").hidden = false;
}

function hideCamera() {
  closeCamera(byId("viewfinder"));
  byId("live").hidden = true;
  byId("choose").hidden = false;
}

async function shoot() {
  const picture = await grab(byId("viewfinder"));
  await countFiles([new File([picture], "camera.jpg", {type: picture.type})]);
}

async function correct(event) {
  event.preventDefault();
  const frame = shown, count = byId("truth").value;
  try {
    await keepCorrection(frame.blob, count);
    frame.kept = count;
    if (frame === shown) byId("correction").textContent = say("kept");
  } catch (error) {
    if (frame === shown) showRefusal(error);
  }
}

async function showModel() {
  const {adapter, backbone, measured, keeps_corrections: keeps} = await describeModel();
  const names = {adapter, backbone: backbone.split("/").at(-1)};
  byId("model").textContent = measured ? say("measured", {
    ...names, frames: measured.frames, mae: measured.mae.toFixed(1),
    low: measured.mae_ci_low.toFixed(1), high: measured.mae_ci_high.toFixed(1),
  }) : say("unmeasured", names);
  if (!keeps) return;
  byId("correct").dataset.allowed = "yes";
  byId("kept").textContent = say("correctedKept");
  byId("correct").hidden = !shown?.answer;
}

async function countExample(image) {
  const picture = await (await fetch(image.src)).blob();
  await countFiles([new File([picture], image.src.split("/").at(-1), {type: picture.type})]);
}

writeWords();
if (matchMedia("(pointer: coarse)").matches) {  // nothing can be dropped on a phone
  byId("invitation").firstChild.textContent = say("choose");
  byId("invitation").lastChild.textContent = "";
}
byId("range").textContent = say("empty");
showModel();
for (const id of ["file", "photo"])
  byId(id).addEventListener("change", ({target}) => {
    const files = [...target.files];
    target.value = "";  // the same file can be chosen again
    countFiles(files);
  });
document.addEventListener("paste", event => countFiles([...event.clipboardData.files]));
for (const kind of ["dragenter", "dragover", "dragleave", "drop"])
  document.addEventListener(kind, event => {
    event.preventDefault();
    byId("drop").classList.toggle("over", kind === "dragenter" || kind === "dragover");
    if (kind === "drop") countFiles([...event.dataTransfer.files]);
  });
for (const button of document.querySelectorAll(".example"))
  button.addEventListener("click", () => countExample(button.firstChild));
byId("camera").addEventListener("click", showCamera);
byId("shoot").addEventListener("click", shoot);
byId("stop").addEventListener("click", hideCamera);
byId("correct").addEventListener("submit", correct);
