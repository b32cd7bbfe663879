"use strict";
// Draws the data of the server, asks for them again and again, and changes the page where they changed.

const REFRESH_MS = 2000, FRAME_MS = 125, RUN_COLORS = 6, HEIGHT_STEPS = 4, MAX_UNFOLDED = 5, MAX_MARKERS = 60, TICK_PX = 60;
const MARGIN = { top: 8, right: 12, bottom: 22, left: 44 };
const SVG = "http://www.w3.org/2000/svg";
const find = (id) => document.getElementById(id);

let data = { runs: [], panels: [], differences: [] };
let etag = "", clockAhead = 0, lostSince = null;
const hidden = new Set();
let cursorStep = null, cursorPanel = null;

// ---- elements ---------------------------------------------------------------------------------

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  fill(made, attributes, children);
  return made;
}

function svgElement(name, attributes = {}, ...children) {
  const made = document.createElementNS(SVG, name);
  fill(made, attributes, children);
  return made;
}

function fill(made, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "run") made.style.setProperty("--color", `var(--run${value % RUN_COLORS})`);
    else if (value !== null && value !== undefined) made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null));
}

// ---- texts ------------------------------------------------------------------------------------

function duration(seconds) {
  const minutes = Math.round(seconds / 60);
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (minutes < 120) return `${minutes} min`;
  if (minutes < 48 * 60) return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
  return `${Math.floor(minutes / 1440)} d ${Math.floor((minutes % 1440) / 60)} h`;
}

const count = (number) => number.toLocaleString("en");

function compact(number) {
  const size = Math.abs(number);
  if (size >= 1e6) return `${+(number / 1e6).toPrecision(3)}M`;
  if (size >= 1e3) return `${+(number / 1e3).toPrecision(3)}k`;
  if (size > 0 && size < 1e-3) return number.toExponential(1).replace(".0e", "e");
  return `${+number.toPrecision(3)}`;
}

const format = (value, unit) => (unit === "%" ? `${+(100 * value).toPrecision(3)}%` : compact(value));

// ---- runs -------------------------------------------------------------------------------------

function card(run, index) {
  const toggle = element("button", { class: "name", type: "button", "aria-pressed": !hidden.has(index),
    title: `${run.uri}\nshow or hide its curves` }, element("span", { class: "swatch", run: index }), run.name);
  toggle.addEventListener("click", () => {
    if (!hidden.delete(index)) hidden.add(index);
    toggle.setAttribute("aria-pressed", !hidden.has(index));
    drawPanels();
  });
  const made = element("article", { class: "run", run: index },
    element("div", { class: "head" }, toggle, element("span", { class: "kind" }, run.kind),
      element("span", { class: `state ${run.state}` }, run.state)));
  if (run.kind) {
    const total = run.total_steps;
    const share = total ? ` (${Math.floor((100 * run.step) / total)}%)` : "";
    made.append(
      element("progress", { max: total || 1, value: total ? run.step : 0, "aria-label": "share of the run" }),
      element("div", { class: "when" },
        element("span", { class: "steps" }, `step ${count(run.step)}${total ? ` of ${count(total)}` : ""}${share}`),
        run.seconds_left === null ? null : element("span", { class: "left" }, `${duration(run.seconds_left)} left`),
        element("span", { class: "age", "data-since": run.written_seconds })));
  }
  const numbers = Object.entries(run.numbers);
  if (numbers.length) {
    made.append(element("dl", {}, ...numbers.map(([label, text]) =>
      element("div", {}, element("dt", {}, label), element("dd", {}, text)))));
  }
  if (run.note) made.append(element("p", { class: run.state === "not started" ? "note plain" : "note" }, run.note));
  if (run.warning) made.append(element("p", { class: "warning" }, run.warning));
  if (run.num_quarantined || run.quarantined.length) made.append(quarantine(run, index));
  return made;
}

const unfolded = new Set();

function quarantine(run, index) {
  const number = Math.max(run.num_quarantined, run.quarantined.length);
  const more = number - run.quarantined.length;
  const list = element("ul", {}, ...run.quarantined.map(([name, reason]) => element("li", {}, `${name}: ${reason}`)),
    ...(more > 0 ? [element("li", {}, `and ${count(more)} more, in quarantine.jsonl`)] : []));
  const made = element("details", { class: "quarantine" },
    element("summary", {}, `${count(number)} video${number === 1 ? "" : "s"} quarantined`), list);
  made.open = unfolded.has(index);
  made.addEventListener("toggle", () => (made.open ? unfolded.add(index) : unfolded.delete(index)));
  return made;
}

function drawRuns() {
  find("runs").replaceChildren(...data.runs.map(card));
  drawAges();
}

function drawAges() {
  const now = Date.now() / 1000 + clockAhead;
  for (const each of document.querySelectorAll("[data-since]")) {
    each.textContent = `last line ${duration(Math.max(now - Number(each.dataset.since), 0))} ago`;
  }
}

function drawDifferences() {
  const made = find("differences"), rows = data.differences;
  made.hidden = !rows.length || data.runs.length < 2;
  if (made.dataset.rows !== `${rows.length}`) {
    made.dataset.rows = rows.length;
    made.open = rows.length <= MAX_UNFOLDED;
  }
  made.querySelector("summary").textContent = `${rows.length} option${rows.length === 1 ? "" : "s"} differ${rows.length === 1 ? "s" : ""}`;
  const heads = data.runs.map((run, index) => element("th", {}, element("span", { class: "swatch", run: index }), run.name));
  made.querySelector("table").replaceChildren(element("tr", {}, element("th"), ...heads),
    ...rows.map((row) => element("tr", {}, element("th", {}, row.option), ...row.values.map((value) => element("td", {}, value)))));
}

// ---- curves -----------------------------------------------------------------------------------

function ticks(low, high, number) {
  const raw = (high - low) / number || 1, power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= raw * 0.999);
  const found = [];
  for (let at = Math.ceil(low / step - 1e-9); at * step <= high + step * 1e-9; at++) found.push(at * step);
  return found;
}

function span(panel, lines) {
  const values = lines.flatMap((line) => line.points.flatMap(([, value, low, high]) => [low ?? value, high ?? value]));
  let low = Math.min(...values), high = Math.max(...values);
  if (panel.from_zero) low = Math.min(low, 0);
  const pad = (high - low || Math.abs(high) || 1) * 0.06;
  return [panel.from_zero && low === 0 ? 0 : low - pad, high + pad];
}

function drawPanels() {
  for (const [id, isMain] of [["panels", true], ["more", false]]) {
    const place = find(id), panels = data.panels.filter((panel) => panel.is_main === isMain);
    while (place.children.length > panels.length) place.lastChild.remove();
    panels.forEach((panel, index) => {
      if (!place.children[index]) place.append(panelFigure());
      drawPanel(place.children[index], panel);
    });
  }
}

function panelFigure() {
  const svg = svgElement("svg", { role: "img" });
  const made = element("figure", {}, element("figcaption"), svg, element("div", { class: "values", hidden: "" }));
  svg.addEventListener("pointermove", (event) => moveCursor(made, svg.getBoundingClientRect(), event.clientX));
  svg.addEventListener("pointerleave", () => { cursorStep = cursorPanel = null; drawPanels(); });
  return made;
}

function shownLines(panel) { return panel.lines.filter((line) => !hidden.has(line.run)); }

function lastStep() {
  // the same on all panels, so that they can be compared
  const curves = data.panels.flatMap((panel) => shownLines(panel).map((line) => line.points.at(-1)[0]));
  return Math.max(1, ...curves);
}

function drawPanel(figure, panel) {
  const [caption, svg, values] = figure.children;
  const lines = shownLines(panel);
  const styles = [...new Map(lines.map((line) => [line.label, line.style])).entries()].filter(([label]) => label);
  caption.replaceChildren(panel.title + (panel.unit && panel.unit !== "%" ? ` (${panel.unit})` : ""),
    ...styles.map(([label, style]) => element("span", { class: "key" }, `${style}: ${label}`)));
  svg.setAttribute("aria-label", panel.title);
  values.hidden = true;
  const width = svg.clientWidth, height = svg.clientHeight;
  if (!lines.length || !width) return svg.replaceChildren();
  const [low, high] = span(panel, lines), steps = lastStep();
  const x = (step) => MARGIN.left + (step / steps) * (width - MARGIN.left - MARGIN.right);
  const y = (value) => height - MARGIN.bottom - ((value - low) / (high - low)) * (height - MARGIN.top - MARGIN.bottom);
  const made = [];
  for (const tick of ticks(low, high, HEIGHT_STEPS)) {
    made.push(svgElement("line", { class: "grid", x1: MARGIN.left, x2: width - MARGIN.right, y1: y(tick), y2: y(tick) }),
      svgElement("text", { x: MARGIN.left - 6, y: y(tick) + 4, "text-anchor": "end" }, format(tick, panel.unit)));
  }
  for (const tick of ticks(0, steps, Math.max(2, Math.floor(width / TICK_PX)))) {
    made.push(svgElement("text", { x: x(tick), y: height - 6, "text-anchor": "middle" }, tick ? compact(tick) : "step 0"));
  }
  for (const line of lines) made.push(...curve(line, panel, x, y));
  if (cursorStep !== null) {
    made.push(svgElement("line", { class: "cursor", x1: x(cursorStep), x2: x(cursorStep), y1: MARGIN.top, y2: height - MARGIN.bottom }));
    if (cursorPanel === figure) drawValues(values, lines, panel, x(cursorStep) > width / 2);
  }
  svg.replaceChildren(...made);
}

function curve(line, panel, x, y) {
  const points = line.points, made = [];
  const path = (list) => list.map(([step, value], i) => `${i ? "L" : "M"}${x(step).toFixed(1)} ${y(value).toFixed(1)}`).join("");
  if (points[0][2] !== null) {
    const upper = points.map(([step, , , top]) => [step, top]), lower = points.map(([step, , bottom]) => [step, bottom]);
    made.push(svgElement("path", { class: "range", run: line.run, d: `${path([...upper, ...lower.reverse()])}Z` }));
  }
  made.push(svgElement("path", { class: `curve ${line.style}`, run: line.run, "data-run": line.run, d: path(points) }));
  // a path of one point is not seen
  if (points.length === 1 || (panel.has_markers && line.style === "solid" && points.length < MAX_MARKERS)) {
    made.push(...points.map(([step, value]) => svgElement("circle", { class: `marker ${line.style}`, run: line.run, cx: x(step), cy: y(value), r: 2.4 })));
  }
  return made;
}

function moveCursor(figure, box, at) {
  const share = (at - box.left - MARGIN.left) / (box.width - MARGIN.left - MARGIN.right);
  cursorStep = Math.round(Math.min(Math.max(share, 0), 1) * lastStep());
  cursorPanel = figure;
  drawPanels();
}

function nearest(points, step) {
  return points.reduce((best, point) => (Math.abs(point[0] - step) < Math.abs(best[0] - step) ? point : best));
}

function drawValues(values, lines, panel, isRight) {
  values.hidden = false;
  values.style.left = isRight ? `${MARGIN.left + 4}px` : "auto";
  values.style.right = isRight ? "auto" : `${MARGIN.right + 4}px`;
  values.replaceChildren(...lines.map((line) => {
    const [step, value] = nearest(line.points, cursorStep);
    const unit = panel.unit && panel.unit !== "%" ? ` ${panel.unit}` : "";
    const name = [data.runs[line.run].name, line.label].filter(Boolean).join(", ");
    return element("div", {}, element("span", { class: "swatch", run: line.run }), `${name}: ${format(value, panel.unit)}${unit} at step ${count(step)}`);
  }));
}

// ---- predictions ------------------------------------------------------------------------------

const images = new Map();
let isFollowing = true, isPlaying = !matchMedia("(prefers-reduced-motion: reduce)").matches, tick = 0;
let canvases = [];
const legend = new Set();  // what the captions of all clips of a run have in common

const picturesOf = (run) => (run.pictures ? run.pictures.steps : []);
const allSteps = () => [...new Set(data.runs.flatMap((run) => picturesOf(run).map((each) => each.step)))].sort((a, b) => a - b);

function drawAnswers() {
  const slider = find("steps"), steps = allSteps();
  find("answers").hidden = !data.runs.some((run) => run.pictures && run.kind);
  const chosen = isFollowing ? steps.length - 1 : Math.max(steps.findLastIndex((step) => step <= Number(slider.dataset.step)), 0);
  slider.max = Math.max(steps.length - 1, 0);
  slider.value = chosen;
  document.querySelector(".controls").hidden = !steps.length;
  slider.hidden = steps.length < 2;
  const step = steps[chosen] ?? 0;
  slider.dataset.step = step;
  find("step").textContent = count(step);
  canvases = [];
  legend.clear();
  find("clips").replaceChildren(...data.runs.flatMap((run, index) => (run.pictures && run.kind ? [answersOf(run, index, step)] : [])));
  find("legend").textContent = [...legend].join(" · ");
  drawFrames();
}

function answersOf(run, index, step) {
  const sprite = picturesOf(run).findLast((each) => each.step <= step);
  const when = !sprite ? "" : sprite.step ? ` after step ${count(sprite.step)}` : " before training";
  const made = element("div", {}, element("h3", {}, element("span", { class: "swatch", run: index }), run.name, element("small", {}, when)));
  if (sprite) {
    const captions = sprite.captions.map((caption) => caption.split("   "));
    const isShared = (text) => captions.every((parts) => parts.includes(text));
    made.append(element("div", { class: "clips" }, ...captions.map((parts, row) => {
      const canvas = element("canvas", { width: sprite.width_px, height: sprite.height_px, role: "img", "aria-label": parts.join(", ") });
      canvases.push({ canvas, sprite, row, image: imageOf(index, run, sprite.step) });
      return element("figure", {}, canvas, element("figcaption", {}, parts.filter((text) => captions.length < 2 || !isShared(text)).join(" · ")));
    })));
    if (captions.length > 1) captions[0].filter(isShared).forEach((text) => legend.add(text));
  }
  const note = run.pictures.note || (run.pictures.drawing && !sprite ? "They are being drawn …" : sprite ? "" : "There is no checkpoint yet.");
  if (note) made.append(element("p", { class: "faint" }, note));
  return made;
}

function imageOf(index, run, step) {
  const url = `pictures/${index}/${step}.webp`;
  if (!images.has(url)) {
    const image = new Image();
    image.addEventListener("load", drawFrames);
    image.src = url;
    images.set(url, image);
  }
  return images.get(url);
}

function drawFrames() {
  for (const { canvas, sprite, row, image } of canvases) {
    if (!image.complete || !image.naturalWidth) continue;
    const { width_px: width, height_px: height, num_frames: number } = sprite;
    canvas.getContext("2d").drawImage(image, (tick % number) * width, row * height, width, height, 0, 0, width, height);
  }
}

find("steps").addEventListener("input", (event) => {
  const steps = allSteps(), index = Number(event.target.value);
  isFollowing = index === steps.length - 1;
  event.target.dataset.step = steps[index];
  drawAnswers();
});

function showPlaying() {
  find("play").textContent = isPlaying ? "pause" : "play";
  find("play").setAttribute("aria-pressed", isPlaying);
}

find("play").addEventListener("click", () => { isPlaying = !isPlaying; showPlaying(); });

setInterval(() => {
  if (isPlaying && canvases.length && !document.hidden) { tick++; drawFrames(); }
}, FRAME_MS);

// ---- the server -------------------------------------------------------------------------------

async function refresh() {
  try {
    const answer = await ask();
    showConnection();
    if (answer !== null) {
      data = answer;
      drawAll();
    }
  } finally {
    setTimeout(refresh, REFRESH_MS);
  }
}

// Returns the data if they have changed, otherwise null.
async function ask() {
  try {
    const answer = await fetch("data.json", { cache: "no-store", headers: etag ? { "If-None-Match": etag } : {} });
    if (!answer.ok && answer.status !== 304) throw new Error(`status ${answer.status}`);
    const changed = answer.status === 304 ? null : await answer.json();
    clockAhead = (Date.parse(answer.headers.get("Date")) - Date.now()) / 1000;
    etag = answer.headers.get("ETag") ?? etag;
    lostSince = null;
    return changed;
  } catch (error) {
    lostSince ??= new Date();
    return null;
  }
}

function showConnection() {
  find("lost").hidden = lostSince === null;
  if (lostSince === null) {
    find("connection").textContent = `up to date, ${new Date().toLocaleTimeString()}`;
  } else {
    find("connection").textContent = "";
    find("lost").textContent = `The server is no longer reached since ${lostSince.toLocaleTimeString()}. Start ctp watch again with the same port; this page then continues by itself.`;
  }
  drawAges();
}

function drawAll() {
  const [first] = data.runs;
  const share = data.runs.length === 1 && first.total_steps ? `${Math.floor((100 * first.step) / first.total_steps)}% ` : "";
  document.title = `${share}${data.runs.map((run) => run.name).join(", ")} – ctp watch`;
  drawRuns();
  drawDifferences();
  drawPanels();
  drawAnswers();
}

new ResizeObserver(() => drawPanels()).observe(find("panels"));
showPlaying();
refresh();
