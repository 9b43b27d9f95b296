/**
 * Sends what is drawn or dropped to /predict and shows the prediction.
 *
 * A drawing is a list of marks: strokes, or one image. The list is replaced, never
 * mutated, so undo restores the previous list.
 */

const PAUSE = 60; // milliseconds between two requests during a stroke
const TIMEOUT = 10_000; // milliseconds to wait for a response
const RETRY = 2; // seconds until the next try after a failure
const RECENT = 10; // predictions in the list of recent ones
const SIDE = 1024; // pixels that larger images are scaled down to before upload

const page = Object.fromEntries(
  [...document.querySelectorAll("[id]")].map((element) => [element.id, element]),
);
const pen = page.canvas.getContext("2d", { alpha: false });

/* The drawing */

let marks = [];
const past = []; // the lists that undo restores
let stroke = null; // the one being drawn

function change(next) {
  past.push(marks);
  show(next);
}

function undo() {
  if (past.length) show(past.pop());
}

function clear() {
  if (marks.length) change([]);
}

function show(next) {
  marks = next;
  paint();
  if (!marks.length) showNothing();
  look();
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
  look();
}

function end(event) {
  if (!event.isPrimary) return;
  stroke = null;
  page.status.ariaBusy = "false";
}

/* Images */

async function take(file) {
  if (!file) return;
  try {
    const image = scaled(await createImageBitmap(file));
    change([{ image, body: await png(image) }]);
  } catch {
    tell(`${file.name} is not an image that this browser can read.`);
  }
}

function scaled(bitmap) {
  const scale = Math.min(1, SIDE / Math.max(bitmap.width, bitmap.height));
  const [width, height] = [bitmap.width, bitmap.height].map((n) => Math.ceil(n * scale));
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  canvas.getContext("2d").drawImage(bitmap, 0, 0, width, height);
  return canvas;
}

/** Encodes whatever the browser could read in a format that the server can read. */
function png(canvas) {
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}

/* Requests */

let labels = [];
let asking = false;
let changed = false; // since the last request
let retry = 0;

/** Requests a prediction; during a request, only the newest drawing waits. */
async function look() {
  changed = true;
  if (asking) return;
  asking = true;
  while (changed) {
    changed = false;
    clearTimeout(retry);
    if (marks.length) await ask(marks);
    await new Promise((resolve) => setTimeout(resolve, PAUSE));
  }
  asking = false;
}

async function ask(asked) {
  const isCurrent = () => asked[0] === marks[0]; // false if cleared meanwhile
  try {
    const answer = await predict(asked);
    if (!isCurrent()) return;
    tell("");
    showAnswer(answer, asked[0]);
  } catch (error) {
    if (isCurrent()) showProblem(error);
  }
}

async function predict(asked) {
  const body = asked[0].body ?? (await png(page.canvas));
  const query = `top_k=${labels.length || 10}&pixels=true`;
  const answer = await fetched(`predict?${query}`, { method: "POST", body });
  if (!answer.predictions?.length) throw problem("The server returned no prediction.");
  return answer;
}

/** An error; `again`: seconds until the next try; `access`: whether a token is needed. */
function problem(message, more) {
  return Object.assign(new Error(message), more);
}

async function fetched(address, options) {
  const token = sessionStorage.getItem("token");
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const signal = AbortSignal.timeout(TIMEOUT);
  const response = await fetch(address, { ...options, headers, signal }).catch(() => {
    throw problem("The server cannot be reached. Retrying…", { again: RETRY });
  });
  const answer = await response.json().catch(() => ({})); // a proxy may send HTML
  if (response.ok) return answer;
  if (response.status === 401) {
    const message = token ? "This token is not valid." : "The server requires a token.";
    throw problem(message, { access: true });
  }
  const passing = [502, 503, 504].includes(response.status) ? RETRY : 0;
  const again = Number(response.headers.get("Retry-After")) || passing;
  const what = answer.error ?? `status ${response.status}`;
  throw problem(`The server reported an error: ${what}`, { again });
}

async function learnLabels() {
  try {
    showLabels((await fetched("v1/models/mnist/metadata")).metadata.labels);
  } catch (error) {
    if (error.access) showProblem(error); // else the first prediction names them
  }
}

/* Predictions */

function percent(share) {
  return `${Math.round(share * 100)}%`;
}

function showNothing() {
  tell("");
  showVerdict("", "Nothing drawn yet.");
  showBars([]);
  page.seen.getContext("2d").clearRect(0, 0, page.seen.width, page.seen.height);
}

function showAnswer({ predictions, image_shape: shape, model, version }, drawing) {
  const { label, probability, top, rejected, reason, pixels } = predictions[0];
  showPixels(page.seen, pixels, shape);
  showBars(top);
  page.model.textContent = `model ${model}, version ${version}`;
  if (label !== null) {
    showVerdict(label, `${percent(probability)} sure`);
    remember(drawing, label, probability, pixels, shape);
  } else if (rejected) {
    const choice = top.slice(0, 2).map((one) => one.label);
    showVerdict("?", `Not sure: ${choice.join(" or ")}?`, reason);
    remember(drawing, "?", top[0].probability, pixels, shape);
  } else {
    showVerdict("", "Nothing to recognise.", reason);
  }
}

function showVerdict(glyph, sentence, reason = "") {
  write(page.glyph, glyph);
  write(page.sentence, sentence);
  write(page.reason, reason);
  page.glyph.classList.toggle("word", glyph.length > 2);
}

/** Sets the text if it differs: screen readers would read it out again. */
function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function showLabels(names) {
  labels = names;
  const rows = names.map((name) => {
    const row = page.bar.content.firstElementChild.cloneNode(true);
    row.querySelector(".label").textContent = name;
    return row;
  });
  page.bars.replaceChildren(...rows);
  showBars([]);
}

function showBars(top) {
  const shares = new Map(top.map(({ label, probability }) => [label, probability]));
  const named = [...shares.keys()];
  if (named.some((name) => !labels.includes(name))) showLabels(named.sort());
  for (const [index, row] of [...page.bars.children].entries()) {
    const share = shares.get(labels[index]) ?? 0;
    row.style.setProperty("--share", share);
    row.classList.toggle("best", labels[index] === named[0]);
    row.querySelector(".share").textContent = top.length ? percent(share) : "";
  }
}

/** Draws pixels as opacity, so that the colour comes from the style sheet. */
function showPixels(canvas, pixels, [height, width]) {
  const image = new ImageData(width, height);
  [...atob(pixels)].forEach((value, index) => {
    image.data.set([255, 255, 255, value.charCodeAt(0)], 4 * index);
  });
  Object.assign(canvas, { width, height });
  canvas.getContext("2d").putImageData(image, 0, 0);
}

const entries = new WeakMap(); // list items by the first mark of a drawing

/** Keeps one entry per drawing: further strokes update it. */
function remember(drawing, glyph, share, pixels, shape) {
  if (!entries.has(drawing)) {
    const entry = page.entry.content.firstElementChild.cloneNode(true);
    entries.set(drawing, entry);
    page.latest.prepend(entry);
    page.latest.children[RECENT]?.remove();
  }
  const entry = entries.get(drawing);
  showPixels(entry.querySelector("canvas"), pixels, shape);
  entry.querySelector(".label").textContent = glyph;
  entry.querySelector(".share").textContent = percent(share);
}

/* Notices */

function tell(message, access = false) {
  write(page.message, message);
  page.access.hidden = !access;
  page.notice.hidden = !message;
}

function showProblem({ message, access, again }) {
  tell(message, access);
  if (access) page.token.focus();
  if (again) retry = setTimeout(look, again * 1000);
}

async function useToken(event) {
  event.preventDefault();
  sessionStorage.setItem("token", page.token.value);
  page.token.value = "";
  tell("");
  await learnLabels();
  look();
}

/* Events */

page.canvas.addEventListener("pointerdown", begin);
page.canvas.addEventListener("pointermove", go);
page.canvas.addEventListener("lostpointercapture", end); // lifted or cancelled
page.undo.addEventListener("click", undo);
page.clear.addEventListener("click", clear);
page.access.addEventListener("submit", useToken);

page.file.addEventListener("change", () => {
  take(page.file.files[0]);
  page.file.value = ""; // lets the same file be chosen again
});

addEventListener("paste", (event) => take(event.clipboardData.files[0]));
for (const name of ["dragover", "dragleave", "drop"]) {
  addEventListener(name, (event) => {
    event.preventDefault(); // else the browser opens the file
    document.body.classList.toggle("dropping", name === "dragover");
    if (name === "drop") take(event.dataTransfer.files[0]);
  });
}

addEventListener("keydown", (event) => {
  if (event.target === page.token) return;
  if ((event.ctrlKey || event.metaKey) && event.key === "z") undo();
  if (["Escape", "Delete"].includes(event.key)) clear();
});

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint);

paint();
showNothing();
learnLabels();
