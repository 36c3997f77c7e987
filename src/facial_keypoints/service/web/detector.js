// Finding the faces of an image: OnnxFaceDetector of inference/detector.py, step by step, with its names and constants.
// Its docstring says why each step is there. A box here is {box: [x0, y0, x1, y1], score, angle}.

import { iou, nms } from './crops.js';
import { part, resize, round, turnLeft } from './pixels.js';

const SMALLEST = 12;
const HINT = 0.2;
const UNSURE = 0.6;
const RATHER_SURE = 0.75;
const SURE = 0.85;
const TILE = 256;
const BORDER = 48;
const MARGIN = 32;
const SMALL = 16;
const LARGE = 0.2;

const sideOf = ({ box }) => box[2] - box[0];
const middleOf = ({ box: [x0, y0, x1, y1] }) => [(x0 + x1) / 2, (y0 + y1) / 2];
const bestScore = (found) => found.reduce((best, { score }) => Math.max(best, score), 0);
const isInside = ([x, y], [x0, y0, x1, y1]) => x0 <= x && x <= x1 && y0 <= y && y <= y1;

export class FaceDetector {
  /**
   * @param network: (image {data, width, height}) => {boxes: [x0, y0, x1, y1, ...], scores}
   * @param about the settings in the metadata of its file
   */
  constructor(network, about) {
    this.network = network;
    this.about = about;
  }

  /** The faces of a grey image, best first, and the side of the smallest face looked for: {found, smallest}. */
  async detect(gray, effort) {
    const pyramid = new Pyramid(gray);
    const scale = Math.min(this.about.longest_side / Math.max(gray.width, gray.height), this.about.max_enlarge);
    const thorough = effort === 'thorough';
    let seen;
    let finest = scale;
    if (effort === 'fast') seen = await this.run(pyramid, pyramid.frame, scale);
    else {
      seen = await this.searchWhole(pyramid, scale, 0, thorough);
      let orientations = [0];
      if (thorough || !(await this.isUpright(pyramid, seen))) {
        for (const turns of [1, 2, 3]) seen.push(...await this.searchWhole(pyramid, scale, turns, thorough));
        const best = [0, 1, 2, 3].map((k) => bestScore(seen.filter(({ angle }) => angle === 90 * k)));
        best[0] = Math.max(best[0] + 0.1, RATHER_SURE); // upright unless another is clearly better
        orientations = thorough ? [0, 1, 2, 3] : [best.indexOf(Math.max(...best))];
        // In the wrong orientation, too, faces look a little like faces.
        seen = seen.filter(({ score, angle }) => orientations.includes(angle / 90) || score >= SURE);
      }
      for (const turns of orientations) finest = await this.searchLevels(pyramid, scale, turns, seen, thorough);
    }
    return { found: this.best(seen), smallest: SMALLEST / finest };
  }

  /** The whole image; and smaller, with a margin, until there is a sure face that the frame does not cut. */
  async searchWhole(pyramid, scale, turns, thorough) {
    const seen = await this.run(pyramid, pyramid.frame, scale, { turns });
    const [, , width, height] = pyramid.frame;
    let sure = seen.some((face) => {
      const slack = 0.05 * sideOf(face);
      const [x0, y0, x1, y1] = face.box;
      return face.score >= SURE && Math.min(x0, y0) > -slack && x1 < width + slack && y1 < height + slack;
    });
    for (const smaller of [scale / 2, scale / 4]) {
      if (thorough || !sure) {
        const found = await this.run(pyramid, pyramid.frame, smaller, { turns, margin: MARGIN });
        sure = bestScore(found) >= SURE;
        seen.push(...found);
      }
    }
    return seen;
  }

  /** Whether the best face is sure, or rather sure and gets no higher score when it is turned. */
  async isUpright(pyramid, found) {
    const best = bestScore(found);
    if (best < RATHER_SURE || best >= SURE) return best >= SURE;
    const face = found.find(({ score }) => score === best);
    const side = sideOf(face);
    const [x, y] = middleOf(face);
    const region = pyramid.clip([x - side, y - side, x + side, y + side]);
    for (const turns of [1, 2, 3]) {
      if (bestScore(await this.run(pyramid, region, BORDER / side, { turns })) > best) return false;
    }
    return true;
  }

  /** Search the finer levels in one orientation, and add what is found to `seen`; the finest scale searched whole. */
  async searchLevels(pyramid, first, turns, seen, thorough) {
    const [, , width, height] = pyramid.frame;
    let [finest, scale, last] = [first, first, seen];
    while (1 / scale > 1.45) {
      const sure = this.best(seen).filter(({ score }) => score >= SURE);
      const hints = hintsOf(last, sure, SMALL / scale);
      scale = Math.min(2 * scale, 1);
      const crowd = Math.max(0, ...sure.map(sideOf)) < LARGE * Math.max(width, height);
      const whole = thorough || (scale <= 0.5 && (crowd || scale === 2 * first));
      const border = BORDER / scale;
      last = [];
      for (const tile of tilesOf(pyramid.frame, scale, whole ? null : hints, sure)) {
        const [x0, y0, x1, y1] = tile;
        const region = pyramid.clip([x0 - border, y0 - border, x1 + border, y1 + border]);
        const found = await this.run(pyramid, region, scale, { turns });
        last.push(...found.filter((face) => {
          const [x, y] = middleOf(face);
          return x0 <= x && x < x1 && y0 <= y && y < y1 && sideOf(face) <= 2 * border;
        }));
      }
      seen.push(...last);
      if (whole) finest = scale;
    }
    return finest;
  }

  /** One pass of the network over a region: all boxes that are at least hints, in pixels of the image. */
  async run(pyramid, wanted, scale, { turns = 0, margin = 0 } = {}) {
    const { threshold, overlap, multiple } = this.about;
    const { view, region: [left, top, right, bottom] } = pyramid.cut(wanted, scale);
    let turned = view;
    for (let k = 0; k < turns; k += 1) turned = turnLeft(turned);
    const { boxes, scores } = await this.network(placed(turned, margin, multiple));
    const seen = [];
    scores.forEach((score, i) => {
      if (score >= HINT) seen.push({ box: Array.from(boxes.subarray(4 * i, 4 * i + 4)), score, angle: 90 * turns });
    });
    const faces = nms(seen.filter(({ score }) => score >= threshold), overlap);
    const hints = seen.filter(({ score }) => score < threshold);
    const [sx, sy] = [(right - left) / view.width, (bottom - top) / view.height];
    return [...faces, ...hints].map((face) => {
      let [x0, y0, x1, y1] = face.box.map((v) => v - margin);
      for (let k = turns - 1; k >= 0; k -= 1) { // undo the last turn first
        const side = k % 2 ? view.height : view.width;
        [x0, y0, x1, y1] = [side - y1, x0, side - y0, x1];
      }
      return { ...face, box: [left + sx * x0, top + sy * y0, left + sx * x1, top + sy * y1] };
    });
  }

  /** The faces among the boxes seen, each once, best first. */
  best(seen) {
    const found = nms(seen.filter(({ score }) => score >= this.about.threshold), this.about.overlap);
    // Noses and eyes of large faces look like small faces.
    const isPart = (face) => found.some((large) => large.score >= SURE
      && sideOf(face) < 0.4 * sideOf(large) && isInside(middleOf(face), large.box));
    return found.filter((face) => !isPart(face));
  }
}

/** An image, and its halves as soon as they are needed. */
class Pyramid {
  constructor(gray) {
    this.frame = [0, 0, gray.width, gray.height];
    this.halves = [gray];
  }

  /** The part of a region that lies in the image. */
  clip(region) {
    return region.map((v, i) => Math.min(this.frame[2 + (i % 2)], Math.max(0, v)));
  }

  /** A region at a scale, and the region that it shows exactly, in pixels of the image. */
  cut(region, scale) {
    const { halves } = this;
    const wanted = Math.max(0, Math.floor(-Math.log2(scale)));
    while (halves.length <= wanted && Math.min(halves.at(-1).width, halves.at(-1).height) >= 32) {
      const last = halves.at(-1);
      const [columns, rows] = [Math.floor(last.width / 2), Math.floor(last.height / 2)];
      halves.push(resize(part(last, [0, 0, 2 * columns, 2 * rows]), columns, rows));
    }
    const level = Math.min(wanted, halves.length - 1);
    const [source, step] = [halves[level], 2 ** level];
    const [x0, y0] = region.slice(0, 2).map((v) => Math.floor(v / step));
    const x1 = Math.min(source.width, Math.ceil(region[2] / step));
    const y1 = Math.min(source.height, Math.ceil(region[3] / step));
    const [width, height] = [x1 - x0, y1 - y0].map((n) => Math.max(1, round(n * step * scale)));
    const view = resize(part(source, [x0, y0, x1, y1]), width, height);
    return { view, region: [x0, y0, x1, y1].map((v) => v * step) };
  }
}

/** An image on black whose sides are multiples of what the network takes. */
function placed({ data, width, height }, margin, multiple) {
  const [across, down] = [width, height].map((n) => Math.ceil((n + 2 * margin) / multiple) * multiple);
  const canvas = new Uint8Array(across * down);
  for (let y = 0; y < height; y += 1) {
    canvas.set(data.subarray(y * width, (y + 1) * width), (margin + y) * across + margin);
  }
  return { data: canvas, width: across, height: down };
}

/** Middles of small boxes that may be faces; those that overlap a sure face are not. */
function hintsOf(found, sure, largest) {
  return found
    .filter((face) => face.score < UNSURE && sideOf(face) < largest && sure.every(({ box }) => iou(face.box, box) < 0.3))
    .map(middleOf);
}

/** Tiles [x0, y0, x1, y1] of a level: those with a hint, all without `hints`; neighbours are joined, up to 4 by 4. */
function tilesOf([, , width, height], scale, hints, sure) {
  const edges = (side) => {
    const count = Math.max(1, round((side * scale) / TILE));
    return Array.from({ length: count + 1 }, (_, i) => (i * side) / count);
  };
  const [xs, ys] = [edges(width), edges(height)];
  const [columns, rows] = [xs.length - 1, ys.length - 1];
  const wanted = ys.slice(1).map(() => Array(columns).fill(hints === null));
  const tileOf = (v, sides) => Math.min(sides.length - 2, Math.max(0, sides.findLastIndex((edge) => edge <= v)));
  for (const [x, y] of hints ?? []) wanted[tileOf(y, ys)][tileOf(x, xs)] = true;
  for (const { box } of sure) {
    for (let i = 0; i < rows; i += 1) {
      for (let j = 0; j < columns; j += 1) {
        if (isInside([xs[j], ys[i]], box) && isInside([xs[j + 1], ys[i + 1]], box)) wanted[i][j] = false;
      }
    }
  }
  const tiles = [];
  for (let i = 0; i < rows; i += 1) {
    for (let j = 0; j < columns; j += 1) {
      if (wanted[i][j]) {
        let [right, below] = [j + 1, i + 1];
        while (right < Math.min(columns, j + 4) && wanted[i][right]) right += 1;
        while (below < Math.min(rows, i + 4) && wanted[below].slice(j, right).every(Boolean)) below += 1;
        for (const row of wanted.slice(i, below)) row.fill(false, j, right);
        tiles.push([xs[j], ys[i], xs[right], ys[below]]);
      }
    }
  }
  return tiles;
}
