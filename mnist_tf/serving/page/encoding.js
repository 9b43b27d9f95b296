/** Pictures that are scaled down and encoded in a format that the server can read. */

/** Copies an image to a canvas whose longer side has at most so many pixels. */
export function scaled(image, side) {
  const scale = Math.min(1, side / Math.max(image.width, image.height));
  const [width, height] = [image.width, image.height].map((n) => Math.ceil(n * scale));
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  canvas.getContext("2d").drawImage(image, 0, 0, width, height);
  return canvas;
}

export function encoded(canvas, type = "image/png") {
  return new Promise((resolve, reject) => {
    canvas.toBlob((blob) => (blob ? resolve(blob) : reject(new Error("no pixels"))), type);
  });
}
