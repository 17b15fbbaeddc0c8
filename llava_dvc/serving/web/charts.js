// Two charts: the distribution of one count, and the counts of a video over time.
import {clock} from "./media.js";

const STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600];  // seconds between ticks

export const percent = share => share >= 0.995 ? "> 99 %" : (100 * share).toFixed(share < 0.1 ? 1 : 0) + " %";

function draw(svg, width, height, parts) {
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.innerHTML = parts.join("");  // numbers only
}

export function drawDistribution(svg, {distribution, low, high}) {
  const visible = distribution.map((share, count) => [count, share]).filter(([, share]) => share > 0.002);
  const first = Math.max(0, visible[0][0] - 1), last = Math.min(distribution.length - 1, visible.at(-1)[0] + 1);
  const top = Math.max(...distribution), width = 360, height = 170, base = height - 18;
  const step = width / (last - first + 1), every = Math.ceil((last - first + 1) / 10);
  const parts = [];
  for (let count = first; count <= last; count++) {
    const tall = base * distribution[count] / top, x = (count - first) * step;
    const inside = count >= low && count <= high ? "inside" : "";
    parts.push(`<rect class="${inside}" x="${x + step * 0.1}" y="${base - tall}" width="${step * 0.8}" ` +
      `height="${tall}" rx="2"><title>${count}: ${percent(distribution[count])}</title></rect>`);
    if ((count - first) % every === 0)
      parts.push(`<text x="${x + step / 2}" y="${height - 3}">${count}</text>`);
  }
  draw(svg, width, height, [...parts, `<line x1="0" x2="${width}" y1="${base}" y2="${base}"/>`]);
}

// The line is the count, the band its 80 % interval. `frames` are in order of time.
export function drawTimeline(svg, frames) {
  const width = svg.clientWidth, height = 170, left = 34, right = 20, base = height - 24;
  const most = Math.max(1, ...frames.map(frame => frame.answer.high));
  const end = Math.max(1, frames.at(-1).seconds);
  const x = frame => left + (width - left - right) * frame.seconds / end;
  const y = count => base - (base - 8) * count / most;
  const line = (list, end) => list.map(frame => `${x(frame)},${y(frame.answer[end])}`);
  const band = [...line(frames, "low"), ...line([...frames].reverse(), "high")];
  const parts = [0, Math.ceil(most / 2), most].map(count =>
    `<line x1="${left}" x2="${width - right}" y1="${y(count)}" y2="${y(count)}"/>` +
    `<text class="left" x="${left - 8}" y="${y(count) + 4}">${count}</text>`);
  const step = STEPS.find(step => end / step <= 6) ?? end;
  for (let seconds = 0; seconds <= end; seconds += step)
    parts.push(`<text x="${x({seconds})}" y="${height - 4}">${clock(seconds)}</text>`);
  parts.push(`<polygon points="${band.join(" ")}"/><polyline points="${line(frames, "count").join(" ")}"/>`);
  for (const frame of frames)
    parts.push(`<circle cx="${x(frame)}" cy="${y(frame.answer.count)}" r="4"><title>${frame.name}: ` +
      `${frame.answer.count} (${frame.answer.low}–${frame.answer.high})</title></circle>`);
  draw(svg, width, height, parts);
}
