/** The elements of the page by their ids, and what changes them. */

export const page = Object.fromEntries(
  [...document.querySelectorAll("[id]")].map((element) => [element.id, element]),
);

/** Sets the text if it differs: screen readers would read it out again. */
export function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Shows a notice, or hides it if there is nothing to say. */
export function tell(message, access = false) {
  write(page.message, message);
  page.access.hidden = !access;
  page.notice.hidden = !message;
}
