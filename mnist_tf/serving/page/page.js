/**
 * Sends what is drawn, or the picture, to /predict and shows the prediction.
 *
 * The server says which it is to be. Both modules have the same functions: `start`,
 * `subject`, which returns what to classify, `take` for files, and `clear`.
 */

import { showAnswer, showLabels, showNothing, showVerdict, wanted } from "./answer.js";
import * as drawing from "./drawing.js";
import { page, tell } from "./elements.js";
import * as picture from "./picture.js";
import { fetched, problem } from "./requests.js";

const PAUSE = 60; // milliseconds between two requests during a stroke
const TOO_LARGE = [408, 413]; // for the network of the user or the limit of the server

const { model, method } = document.documentElement.dataset;
const source = method === "digits" ? drawing : picture;

/* Requests */

let asking = false;
let changed = false; // since the last request
let retry = 0;

function change() {
  const sentence = source.subject() ? source.waiting : source.nothing;
  if (sentence) showNothing(sentence);
  look();
}

/** Requests a prediction; during a request, only the newest drawing waits. */
async function look() {
  changed = true;
  if (asking) return;
  asking = true;
  while (changed) {
    changed = false;
    clearTimeout(retry);
    const subject = source.subject();
    if (subject) await ask(subject);
    await new Promise((resolve) => setTimeout(resolve, PAUSE));
  }
  asking = false;
}

async function ask(subject) {
  const isCurrent = () => subject.key === source.subject()?.key; // cleared meanwhile?
  try {
    const answer = await predict(subject);
    if (!isCurrent()) return;
    tell("");
    showAnswer(answer, subject.key, subject.note?.());
  } catch (error) {
    if (isCurrent()) showProblem(error);
  }
}

async function predict(subject) {
  try {
    return await upload(await subject.body());
  } catch (error) {
    const smaller = TOO_LARGE.includes(error.status) && (await subject.shrink?.());
    if (smaller) return predict(subject);
    throw error;
  }
}

async function upload(body) {
  const query = `top_k=${wanted()}&pixels=true`;
  const answer = await fetched(`predict?${query}`, { method: "POST", body });
  if (!answer.predictions?.length) throw problem("The server returned no prediction.");
  return answer;
}

async function learnLabels() {
  try {
    const address = `v1/models/${encodeURIComponent(model)}/metadata`;
    showLabels((await fetched(address)).metadata.labels);
  } catch (error) {
    if (error.access) showProblem(error); // else the first prediction names them
  }
}

/* Notices */

function showProblem({ message, access, again }) {
  tell(message, access);
  if (access) page.token.focus();
  if (again) retry = setTimeout(look, again * 1000);
  else if (source.waiting && source.subject()) showVerdict("", "Not classified.");
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

function take(file) {
  if (file) source.take(file);
}

for (const chooser of [page.file, page.choose]) {
  chooser.addEventListener("change", () => {
    take(chooser.files[0]);
    chooser.value = ""; // lets the same file be chosen again
  });
}

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
  if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "z") source.undo?.();
  if (["Escape", "Delete"].includes(event.key)) source.clear();
});

page.access.addEventListener("submit", useToken);

const heading = document.querySelector(method === "digits" ? ".for-digits h1" : ".for-pictures h1");
document.title = `mnist_tf: ${heading.textContent.toLowerCase()}`;
source.start(change);
showNothing(source.nothing);
learnLabels();
