/**
 * What is drawn, for models of digits.
 *
 * A drawing is a list of marks: strokes, or one image. The list is replaced, never
 * mutated, so undo restores the previous list.
 */

import { page, tell } from "./elements.js";
import { encoded, scaled } from "./encoding.js";

const SIDE = 1024; // pixels that larger images are scaled down to before upload

export const nothing = "Nothing drawn yet.";
export const waiting = ""; // the last answer stays during a stroke

const pen = page.canvas.getContext("2d", { alpha: false });
let changed;
let marks = [];
const past = []; // the lists that undo restores
let stroke = null; // the one being drawn
let turn = 0; // a picture that is decoded later than the next change comes too late

export function start(onChange) {
  changed = onChange;
  page.canvas.addEventListener("pointerdown", begin);
  page.canvas.addEventListener("pointermove", go);
  page.canvas.addEventListener("lostpointercapture", end); // lifted or cancelled
  page.undo.addEventListener("click", undo);
  page.clear.addEventListener("click", clear);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);
  paint();
}

/** What to classify; further strokes of a drawing keep its key. */
export function subject() {
  const [key] = marks;
  return key && { key, body: async () => key.body ?? (await encoded(page.canvas)) };
}

export async function take(file) {
  const mine = ++turn;
  try {
    const image = scaled(await createImageBitmap(file), SIDE);
    // Encodes whatever the browser could read in a format that the server can read.
    const body = await encoded(image);
    if (mine === turn) change([{ image, body }]);
  } catch {
    if (mine === turn) tell(`${file.name} is not an image that this browser can read.`);
  }
}

export function undo() {
  turn += 1;
  if (past.length) show(past.pop());
}

export function clear() {
  turn += 1;
  if (marks.length) change([]);
}

function change(next) {
  past.push(marks);
  show(next);
}

function show(next) {
  marks = next;
  paint();
  changed();
}

function paint() {
  const { color, backgroundColor } = getComputedStyle(page.canvas);
  pen.fillStyle = backgroundColor;
  pen.fillRect(0, 0, page.canvas.width, page.canvas.height);
  pen.strokeStyle = color;
  pen.lineCap = "round";
  for (const mark of marks) {
    if (mark.points) paintStroke(mark.points);
    else paintImage(mark.image);
  }
  page.hint.hidden = marks.length > 0;
}

/** Draws a curve through the midpoints between the points, which hides corners. */
function paintStroke(points) {
  let from = points[0];
  points.forEach((point, index) => {
    const next = points[index + 1] ?? point;
    // The hundredth makes a single tap leave a dot: a line of length 0 draws nothing.
    const to = { x: (point.x + next.x) / 2 + 0.01, y: (point.y + next.y) / 2 };
    pen.lineWidth = point.width;
    pen.beginPath();
    pen.moveTo(from.x, from.y);
    pen.quadraticCurveTo(point.x, point.y, to.x, to.y);
    pen.stroke();
    from = to;
  });
}

function paintImage(image) {
  const side = page.canvas.width;
  const scale = side / Math.max(image.width, image.height);
  const [width, height] = [image.width * scale, image.height * scale];
  const box = [(side - width) / 2, (side - height) / 2, width, height];
  pen.fillStyle = "white"; // behind transparent pixels
  pen.fillRect(...box);
  pen.imageSmoothingEnabled = scale < 4; // a tiny image shows its pixels
  pen.drawImage(image, ...box);
}

function pointAt(event) {
  const box = page.canvas.getBoundingClientRect();
  const scale = page.canvas.width / box.width;
  const force = event.pointerType === "pen" ? 0.4 + 1.2 * event.pressure : 1;
  return {
    x: (event.clientX - box.left) * scale,
    y: (event.clientY - box.top) * scale,
    width: (page.brush.value / 100) * page.canvas.width * force,
  };
}

function begin(event) {
  if (!event.isPrimary || event.button !== 0) return;
  event.preventDefault(); // do not select text
  page.canvas.setPointerCapture(event.pointerId);
  page.status.ariaBusy = "true"; // screen readers wait for the end of the stroke
  turn += 1;
  stroke = { points: [pointAt(event)] };
  // Removes an image: ink on top of it might not be visible.
  change([...marks.filter((mark) => mark.points), stroke]);
}

function go(event) {
  if (!stroke || !event.isPrimary) return;
  // All moves since the last frame; not every browser has them.
  const events = event.getCoalescedEvents?.() ?? [];
  stroke.points.push(...(events.length ? events : [event]).map(pointAt));
  paint();
  changed();
}

function end(event) {
  if (!event.isPrimary) return;
  stroke = null;
  page.status.ariaBusy = "false";
}
