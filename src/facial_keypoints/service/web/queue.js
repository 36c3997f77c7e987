// Which images are shown in the film, and in which order.

const DOUBTFUL = 0.6; // a face's mean confidence below which its points are likely wrong

/** How sure a model is of an image: the lowest mean confidence of its faces; 0 where it found none, 1 without a model. */
export function sureness(faces) {
  const means = faces.map(({ points }) => points.reduce((sum, { x, confidence, byHand }) =>
    sum + (x === null ? (byHand ? 1 : 0) : confidence ?? 1), 0) / points.length);
  return means.length ? Math.min(...means) : 0;
}

const FILTERS = {
  all: () => true,
  open: (image) => !image.checked,
  doubtful: (image, suspected) => !image.checked && (image.sure < DOUBTFUL || suspected.has(image)),
};

/**
 * The images to show, in order.
 * @param filter all, open (not checked) or doubtful (also not checked)
 * @param order added, sure (least sure first) or suspects (in the order of `suspected`, then the others)
 * @param suspected the images with suspected labels, in order
 */
export function queueOf(images, { filter, order, suspected }) {
  const suspects = new Set(suspected);
  const shown = images.filter((image) => FILTERS[filter](image, suspects));
  if (order === 'sure') return shown.toSorted((a, b) => a.sure - b.sure);
  if (order !== 'suspects') return shown;
  return [...[...suspects].filter((image) => shown.includes(image)), ...shown.filter((image) => !suspects.has(image))];
}
