// Steadier points of the camera's faces: inference/smoothing.py again for the browser, with the same settings.
// tests/service/test_page.py compares both.

import { faceBox, faceSize, hasCropPoints, iou } from './crops.js';

const MIN_CUTOFF = 1; // Hz, the low pass of a point at rest
const BETA = 10; // Hz by which it opens per face size a second of speed
const DERIVATIVE_CUTOFF = 4; // Hz, the low pass of the speed itself
const LEAST_IOU = 0.25; // of the boxes of one face in two frames, as in inference/tracker.py

/** The One-Euro filter of one face. */
export class OneEuro {
  /** @param raw points [[x, y], ...]; time in seconds; size of the face in the unit of the points */
  next(raw, time, size) {
    const step = time - this.time;
    let smooth = raw;
    let speed = raw.map(() => [0, 0]);
    if (step > 0) {
      const share = (cutoff) => 1 / (1 + 1 / (2 * Math.PI * cutoff * step));
      const mix = (old, now, part) => old.map((v, axis) => v + part * (now[axis] - v));
      speed = raw.map((point, k) => mix(
        this.speed[k], point.map((v, axis) => (v - this.raw[k][axis]) / (step * size)), share(DERIVATIVE_CUTOFF),
      ));
      smooth = raw.map((point, k) => mix(this.smooth[k], point, share(MIN_CUTOFF + BETA * Math.hypot(...speed[k]))));
    }
    Object.assign(this, { time, raw, smooth, speed });
    return smooth;
  }
}

/** A filter for each face; a face that is missing from a frame starts anew. */
export class Smoother {
  tracks = []; // {box, filter}

  /** The faces of the next frame with steadier points and the boxes of these. */
  next(faces, time, names) {
    const free = new Set(this.tracks);
    this.tracks = faces.map(({ box }) => {
      const [best] = [...free].filter((each) => iou(each.box, box) > LEAST_IOU).sort((a, b) => iou(b.box, box) - iou(a.box, box));
      free.delete(best);
      return { box, filter: best?.filter ?? new OneEuro() };
    });
    return faces.map((face, n) => {
      const raw = face.points.map(({ x, y }) => [x, y]);
      const size = hasCropPoints(names) ? faceSize(raw, names) : face.box[2] - face.box[0];
      const smooth = this.tracks[n].filter.next(raw, time, size);
      const points = face.points.map((point, k) => ({ ...point, x: smooth[k][0], y: smooth[k][1] }));
      return { ...face, points, box: faceBox(smooth, names) ?? face.box };
    });
  }
}
