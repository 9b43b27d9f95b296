/** Takes a picture with the camera. */

import { page, tell } from "./elements.js";
import { encoded } from "./encoding.js";

const WANTED = { video: { facingMode: "environment", width: { ideal: 1280 } } };
const PROBLEMS = {
  NotAllowedError: "The browser does not allow this page to use the camera.",
  NotFoundError: "There is no camera.",
  NotReadableError: "The camera cannot be used. Another program may be using it.",
};

let take; // what to do with the picture
let state = null; // of the open camera: {stream}, without one until there is permission

export function start(onPicture) {
  take = onPicture;
  // Browsers have no camera for pages that came over plain HTTP from another machine.
  page.camera.hidden = !navigator.mediaDevices?.getUserMedia;
  page.camera.addEventListener("click", () => close() || open());
  page.shutter.addEventListener("click", shoot);
  addEventListener("pagehide", close);
}

async function open() {
  const mine = {};
  use(mine);
  try {
    const stream = await navigator.mediaDevices.getUserMedia(WANTED);
    if (state === mine) show(stream);
    else stop(stream); // closed while the user was asked for permission
  } catch (error) {
    if (state !== mine) return;
    use(null);
    tell(PROBLEMS[error.name] ?? "The camera cannot be used.");
  }
}

function show(stream) {
  state.stream = stream;
  tell("");
  stream.getVideoTracks()[0].addEventListener("ended", unplugged);
  page.preview.srcObject = stream;
  page.viewfinder.hidden = false;
  page.shutter.focus();
}

/** Closes the camera; returns whether it was open. */
export function close() {
  if (!state) return false;
  if (state.stream) stop(state.stream);
  if (page.viewfinder.contains(document.activeElement)) page.camera.focus();
  page.preview.srcObject = null;
  page.viewfinder.hidden = true;
  use(null);
  return true;
}

function use(next) {
  state = next;
  page.camera.ariaPressed = String(Boolean(next));
}

function stop(stream) {
  for (const track of stream.getTracks()) track.stop();
}

function unplugged() {
  close();
  tell("The camera was disconnected.");
}

async function shoot() {
  const { videoWidth: width, videoHeight: height } = page.preview;
  if (!width) return; // the camera has not sent anything yet
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  canvas.getContext("2d").drawImage(page.preview, 0, 0);
  close();
  take(new File([await encoded(canvas)], "The picture of the camera"));
}
