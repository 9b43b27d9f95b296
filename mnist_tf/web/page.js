/**
 * The page of the server: what is drawn or dropped goes to /predict, and the answer is
 * shown.
 *
 * A drawing is a list of marks: strokes, or one picture. The list is replaced, never
 * changed, so undo is a step back to the list before.
 */

const PAUSE = 60; // milliseconds between two requests while a stroke grows
const PATIENCE = 10_000; // milliseconds until a silent server counts as away
const AGAIN = 2; // seconds until a server that was away is asked again
const REMEMBERED = 10; // answers in the list of the latest
const SIDE = 1024; // pixels that a larger picture is scaled to before it is sent

const page = Object.fromEntries(
  [...document.querySelectorAll("[id]")].map((element) => [element.id, element]),
);
const pen = page.canvas.getContext("2d", { alpha: false });

/* The drawing */

let marks = [];
const past = []; // what undo goes back to
let stroke = null; // the one that grows

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
    else paintPicture(mark.picture);
  }
  page.hint.hidden = marks.length > 0;
}

/** A curve through the middles between the points, which hides the corners. */
function paintStroke(points) {
  let from = points[0];
  points.forEach((point, index) => {
    const next = points[index + 1] ?? point;
    // The hundredth lets a single tap leave a dot: a line of no length leaves nothing.
    const to = { x: (point.x + next.x) / 2 + 0.01, y: (point.y + next.y) / 2 };
    pen.lineWidth = point.width;
    pen.beginPath();
    pen.moveTo(from.x, from.y);
    pen.quadraticCurveTo(point.x, point.y, to.x, to.y);
    pen.stroke();
    from = to;
  });
}

function paintPicture(picture) {
  const side = page.canvas.width;
  const scale = side / Math.max(picture.width, picture.height);
  const [width, height] = [picture.width * scale, picture.height * scale];
  const box = [(side - width) / 2, (side - height) / 2, width, height];
  pen.fillStyle = "white"; // where the picture is transparent
  pen.fillRect(...box);
  pen.imageSmoothingEnabled = scale < 4; // a picture of a few pixels shows them
  pen.drawImage(picture, ...box);
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
  event.preventDefault(); // no selection of text
  page.canvas.setPointerCapture(event.pointerId);
  page.status.ariaBusy = "true"; // a reader waits for the stroke's end
  stroke = { points: [pointAt(event)] };
  // A picture makes way: ink on it might not be seen.
  change([...marks.filter((mark) => mark.points), stroke]);
}

function go(event) {
  if (!stroke || !event.isPrimary) return;
  // All that the hand did since the last frame; not every browser tells.
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

/* Pictures */

async function take(file) {
  if (!file) return;
  try {
    const picture = scaled(await createImageBitmap(file));
    change([{ picture, body: await png(picture) }]);
  } catch {
    tell(`${file.name} is not a picture that this browser can read.`);
  }
}

function scaled(bitmap) {
  const scale = Math.min(1, SIDE / Math.max(bitmap.width, bitmap.height));
  const [width, height] = [bitmap.width, bitmap.height].map((n) => Math.ceil(n * scale));
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  canvas.getContext("2d").drawImage(bitmap, 0, 0, width, height);
  return canvas;
}

/** Whatever the browser could read, in a format that the server can, too. */
function png(canvas) {
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}

/* Questions to the server */

let labels = [];
let asking = false;
let changed = false; // since the last question
let retry = 0;

/** Asks about the drawing; while a question is on its way, only the newest waits. */
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
  const isNews = () => asked[0] === marks[0]; // not if it was cleared meanwhile
  try {
    const answer = await predict(asked);
    if (!isNews()) return;
    tell("");
    showAnswer(answer, asked[0]);
  } catch (error) {
    if (isNews()) showProblem(error);
  }
}

async function predict(asked) {
  const body = asked[0].body ?? (await png(page.canvas));
  const query = `top_k=${labels.length || 10}&pixels=true`;
  const answer = await fetched(`predict?${query}`, { method: "POST", body });
  if (!answer.predictions?.length) throw problem("The server gave no prediction.");
  return answer;
}

/** An error; `again` says in how many seconds to try, `access` that a token is missing. */
function problem(message, more) {
  return Object.assign(new Error(message), more);
}

async function fetched(address, options) {
  const token = sessionStorage.getItem("token");
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const signal = AbortSignal.timeout(PATIENCE);
  const response = await fetch(address, { ...options, headers, signal }).catch(() => {
    throw problem("The server is away. Trying again…", { again: AGAIN });
  });
  const answer = await response.json().catch(() => ({})); // a proxy answers a page
  if (response.ok) return answer;
  if (response.status === 401) {
    const wrong = token ? "does not know this token" : "asks for a token";
    throw problem(`The server ${wrong}.`, { access: true });
  }
  const passing = [502, 503, 504].includes(response.status) ? AGAIN : 0;
  const again = Number(response.headers.get("Retry-After")) || passing;
  const what = answer.error ?? `status ${response.status}`;
  throw problem(`The server answers an error: ${what}`, { again });
}

async function learnLabels() {
  try {
    showLabels((await fetched("v1/models/mnist/metadata")).metadata.labels);
  } catch (error) {
    if (error.access) showProblem(error); // else the predictions name them
  }
}

/* Answers */

function percent(share) {
  return `${Math.round(share * 100)} %`;
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
    showVerdict("", "Nothing to read here.", reason);
  }
}

function showVerdict(glyph, sentence, reason = "") {
  write(page.glyph, glyph);
  write(page.sentence, sentence);
  write(page.reason, reason);
  page.glyph.classList.toggle("word", glyph.length > 2);
}

/** The same text again would be read out again. */
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

/** Ink is opacity, so that the colours are the style sheet's. */
function showPixels(canvas, pixels, [height, width]) {
  const image = new ImageData(width, height);
  [...atob(pixels)].forEach((value, index) => {
    image.data.set([255, 255, 255, value.charCodeAt(0)], 4 * index);
  });
  Object.assign(canvas, { width, height });
  canvas.getContext("2d").putImageData(image, 0, 0);
}

const entries = new WeakMap(); // of the list, by the first mark of a drawing

/** One entry a drawing: a further stroke changes it. */
function remember(drawing, glyph, share, pixels, shape) {
  if (!entries.has(drawing)) {
    const entry = page.entry.content.firstElementChild.cloneNode(true);
    entries.set(drawing, entry);
    page.latest.prepend(entry);
    page.latest.children[REMEMBERED]?.remove();
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

/* What starts all that */

page.canvas.addEventListener("pointerdown", begin);
page.canvas.addEventListener("pointermove", go);
page.canvas.addEventListener("lostpointercapture", end); // lifted, or taken away
page.undo.addEventListener("click", undo);
page.clear.addEventListener("click", clear);
page.access.addEventListener("submit", useToken);

page.file.addEventListener("change", () => {
  take(page.file.files[0]);
  page.file.value = ""; // the same file may be chosen again
});

addEventListener("paste", (event) => take(event.clipboardData.files[0]));
for (const name of ["dragover", "dragleave", "drop"]) {
  addEventListener(name, (event) => {
    event.preventDefault(); // the browser would open the file
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
