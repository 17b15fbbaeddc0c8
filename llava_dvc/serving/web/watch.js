import {sayReason} from "./reasons.js";
import {say, writeWords} from "./words.js";

const cards = new Map();
const STATES = ["connecting", "live", "waiting", "ended", "frozen", "black", "blinded", "changed"];

// A card for each camera, with a part for each zone.
function card(name, zones) {
  if (cards.has(name)) return cards.get(name);
  const section = document.createElement("section");
  section.innerHTML = `<h2></h2><img hidden><div class="state"></div>`;
  section.querySelector("h2").textContent = name;
  section.id = `camera-${name}`;
  for (const {zone} of zones) section.lastChild.before(zonePart(zone));
  document.getElementById("cameras").append(section);
  cards.set(name, section);
  return section;
}

function zonePart(zone) {
  const part = document.createElement("div");
  part.className = "zone";
  part.innerHTML = `<h3></h3><div class="count"></div><div class="range"></div>
    <svg viewBox="0 0 59 40" preserveAspectRatio="none" role="img"></svg>`;
  part.querySelector("svg").setAttribute("aria-label", say("lastHour"));
  part.querySelector("h3").textContent = zone ?? "";
  return part;
}

function sparkline(svg, hour) {
  const most = Math.max(1, ...hour.filter(mean => mean !== null));
  const lines = [[]];
  hour.forEach((mean, minute) => {
    if (mean === null) lines.push([]);
    else lines.at(-1).push(`${minute},${38 - 36 * mean / most}`);
  });
  svg.replaceChildren(...lines.filter(points => points.length).map(points => {
    const line = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
    if (points.length === 1) points.push(points[0].replace(/^\d+/, minute => +minute - 1));
    line.setAttribute("points", points.join(" "));
    return line;
  }));
}

function show(name, camera) {
  const section = card(name, camera.zones);
  section.querySelectorAll(".zone").forEach((part, place) => showZone(part, camera.zones[place]));
  section.classList.toggle("bad", camera.state !== "live");
  const state = STATES.includes(camera.state) ? say(camera.state) : camera.state;
  const age = camera.age === null ? "" : `, ${say("age", {seconds: Math.round(camera.age)})}`;
  const reason = camera.reason ? `: ${sayReason(camera.reason)}` : "";
  section.querySelector(".state").textContent = state + reason + age;
  if ("picture" in camera) showPicture(section.querySelector("img"), name, camera.picture);
}

// `number` is another one for each picture; null if there is none.
function showPicture(image, name, number) {
  document.getElementById("pictures").textContent = say("pictures");
  image.hidden = number === null;
  image.alt = say("newest", {name});
  if (number !== null) image.src = `frames/${encodeURIComponent(name)}?${number}`;
  else image.removeAttribute("src");
}

function showZone(part, {people, hour}) {
  part.querySelector(".count").textContent = people ? people.count : "–";
  part.querySelector(".range").textContent = people ? say("counted", people) : " ";
  sparkline(part.querySelector("svg"), hour);
}

writeWords("camerasTitle");
const events = new EventSource("events");
const lost = document.getElementById("lost");
events.onmessage = event => {
  lost.textContent = "";
  for (const [name, camera] of Object.entries(JSON.parse(event.data))) show(name, camera);
};
events.onerror = () => {
  lost.textContent = say("lost");
  for (const count of document.querySelectorAll(".count")) count.textContent = "–";
};
