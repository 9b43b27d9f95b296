/** Shows the labels, the prediction and the recent predictions. */

import { page, tell, write } from "./elements.js";

const FEW = 12; // labels that all have a bar, in their order
const BEST = 10; // bars if there are more labels, best first
const RECENT = 10; // predictions in the list of recent ones
const COARSE = 64; // pixels per side of an image that is shown pixel by pixel
const BIG = 2; // characters that are shown as a big glyph
const WORD = 16; // characters that are shown as a large word
const ATYPICAL = "not like the training images"; // a reason that the server gives

const areDigits = document.documentElement.dataset.method === "digits";
const characters = new Intl.Segmenter();

let labels = [];

/** The number of labels that a request should ask for. */
export function wanted() {
  return labels.length > FEW ? BEST : labels.length || BEST;
}

export function showLabels(names) {
  labels = names;
  showBars([]);
}

export function showNothing(sentence) {
  tell("");
  showVerdict("", sentence);
  showBars([]);
  page.seen.getContext("2d").clearRect(0, 0, page.seen.width, page.seen.height);
}

/** Shows the answer to a request and keeps one recent entry per key. */
export function showAnswer({ predictions, image_shape: shape, model, version }, key, note) {
  const { label, probability, top, rejected, reason, pixels } = predictions[0];
  showPixels(page.seen, pixels, shape);
  showBars(top);
  page.model.textContent = `model ${model}, version ${version}`;
  if (label !== null) {
    showVerdict(label, `${percent(probability)} sure`, note);
    remember(key, label, probability, pixels, shape);
  } else if (rejected) {
    const choice = top.slice(0, 2).map((one) => one.label);
    const sentence = reason === ATYPICAL ? `Unfamiliar: ${choice[0]}?` : `Not sure: ${choice.join(" or ")}?`;
    showVerdict("?", sentence, reason);
    remember(key, "?", top[0].probability, pixels, shape);
  } else {
    showVerdict("", "Nothing to recognise.", reason);
  }
}

export function showVerdict(glyph, sentence, reason = "") {
  write(page.glyph, glyph);
  write(page.sentence, sentence);
  write(page.reason, reason);
  const length = [...characters.segment(glyph)].length;
  page.glyph.classList.toggle("word", length > BIG);
  page.glyph.classList.toggle("long", length > WORD);
}

function percent(share) {
  return `${Math.round(share * 100)}%`;
}

function showBars(top) {
  const shares = new Map(top.map(({ label, probability }) => [label, probability]));
  const best = [...shares.keys()];
  if (best.some((name) => !labels.includes(name))) labels = [...best].sort();
  const many = labels.length > FEW;
  const names = many ? best.slice(0, BEST) : labels;
  page.rest.hidden = !many || !names.length;
  write(page.rest, `The ${names.length} most probable of ${labels.length} labels`);
  barsFor(names).forEach((row, index) => {
    const share = shares.get(names[index]) ?? 0;
    row.style.setProperty("--share", share);
    row.classList.toggle("best", names[index] === best[0]);
    row.querySelector(".share").textContent = top.length ? percent(share) : "";
  });
}

/** Returns a row for each label; those that there are stay, so that they can move. */
function barsFor(names) {
  const rows = names.map((_, index) => page.bars.children[index] ?? copy(page.bar));
  page.bars.replaceChildren(...rows);
  rows.forEach((row, index) => name(row, names[index]));
  return rows;
}

/** Names a row or an entry; the title has the whole name where it is cut. */
function name(element, text) {
  const label = element.querySelector(".label");
  write(label, text);
  label.title = text;
}

function copy(template) {
  return template.content.firstElementChild.cloneNode(true);
}

function showPixels(canvas, pixels, [height, width, channels = 1]) {
  const image = new ImageData(width, height);
  const values = Uint8Array.from(atob(pixels), (character) => character.charCodeAt(0));
  for (let index = 0; index < width * height; index++) {
    image.data.set(pixel(values, index, channels), 4 * index);
  }
  Object.assign(canvas, { width, height });
  canvas.style.setProperty("--ratio", width / height);
  canvas.classList.toggle("fine", Math.max(width, height) > COARSE);
  canvas.getContext("2d").putImageData(image, 0, 0);
}

function pixel(values, index, channels) {
  if (channels === 3) return [...values.subarray(3 * index, 3 * index + 3), 255];
  const value = values[index];
  // A digit is ink: its colour comes from the style sheet.
  return areDigits ? [255, 255, 255, value] : [value, value, value, 255];
}

const entries = new WeakMap(); // list items by key

/** Keeps one entry per drawing or picture: further strokes update it. */
function remember(key, glyph, share, pixels, shape) {
  if (!entries.has(key)) {
    const entry = copy(page.entry);
    entries.set(key, entry);
    page.latest.prepend(entry);
    page.latest.children[RECENT]?.remove();
  }
  const entry = entries.get(key);
  showPixels(entry.querySelector("canvas"), pixels, shape);
  name(entry, glyph);
  entry.querySelector(".share").textContent = percent(share);
}
