/** A picture that is dropped, pasted, chosen or taken, for models of anything else. */

import * as camera from "./camera.js";
import { page, tell } from "./elements.js";
import { encoded, scaled } from "./encoding.js";

const LARGEST = 16 * 2 ** 20; // bytes of a file that is sent as it is
const TINY = 128; // pixels per side of a picture that shows its pixels

// What to send instead of a file that is too large or that only browsers can read, and
// then instead of what is still too large.
const SMALLER = [
  { side: 2048, type: "image/png" },
  { side: 1024, type: "image/jpeg" },
  { side: 256, type: "image/jpeg" },
];

// By the first bytes, in which the server trusts, too. A dot is any byte.
const FORMATS = {
  "image/png": /^\x89PNG\r\n\x1a\n/,
  "image/jpeg": /^\xff\xd8\xff/,
  "image/bmp": /^BM/,
  "image/webp": /^RIFF.{4}WEBP/s,
  "image/gif": /^GIF8/,
};

export const nothing = "No picture yet.";
export const waiting = "Classifying…";

let changed;
let current = null; // the picture
let turn = 0; // counts the files, as a small one may overtake a large one

export function start(onChange) {
  changed = onChange;
  page.remove.addEventListener("click", clear);
  camera.start(take);
}

/** What to classify; `shrink` makes the next body smaller, if it can. */
export function subject() {
  const picture = current;
  return picture && {
    key: picture,
    body: async () => picture.body,
    shrink: () => shrink(picture),
    note: () => picture.note,
  };
}

export async function take(file) {
  camera.close();
  const mine = ++turn;
  try {
    const picture = await read(file);
    if (mine === turn) show(picture);
  } catch {
    if (mine === turn) tell(`${file.name} is not a picture that this browser can read.`);
  }
}

export function clear() {
  if (camera.close()) return;
  turn++;
  if (current) show(null);
}

async function read(file) {
  const image = new Image();
  image.src = URL.createObjectURL(file);
  await image.decode();
  const picture = { image, name: file.name, body: await original(file), tries: 0 };
  if (!picture.body) await shrink(picture);
  return picture;
}

/**
 * Returns the bytes of a file that the server can read, else null.
 *
 * They are sent untouched: encoded again, the picture would get other probabilities.
 */
async function original(file) {
  if (file.size > LARGEST) return null;
  const bytes = await file.arrayBuffer(); // the file may be gone when it is sent again
  const head = String.fromCharCode(...new Uint8Array(bytes.slice(0, 16)));
  const type = Object.keys(FORMATS).find((each) => FORMATS[each].test(head));
  return type ? new Blob([bytes], { type }) : null;
}

async function shrink(picture) {
  const form = SMALLER[picture.tries++];
  if (!form) return false;
  const canvas = scaled(picture.image, form.side);
  if (form.type === "image/jpeg") whiten(canvas);
  picture.body = await encoded(canvas, form.type);
  picture.note = `sent as ${canvas.width}x${canvas.height} pixels`;
  return true;
}

/** Makes transparent pixels white, as the server does; JPEG would make them black. */
function whiten(canvas) {
  const brush = canvas.getContext("2d");
  brush.globalCompositeOperation = "destination-over";
  brush.fillStyle = "white";
  brush.fillRect(0, 0, canvas.width, canvas.height);
}

function show(next) {
  if (current) URL.revokeObjectURL(current.image.src);
  current = next;
  page.picture.hidden = !next;
  page.invitation.hidden = Boolean(next);
  if (next) fill(next);
  else page.picture.removeAttribute("src");
  changed();
}

function fill({ image, name }) {
  const { width, height } = image;
  page.picture.src = image.src;
  page.picture.alt = name;
  page.picture.style.setProperty("--ratio", width / height);
  page.picture.classList.toggle("fine", Math.max(width, height) > TINY);
}
