// Grey images as arrays: resizing and cutting crops, with the same arithmetic as facial_keypoints/crops.py.

import { apply, compose, inverse } from './crops.js';

/** A number rounded as Python does, halves to the even neighbour. */
export const round = (value) => (value % 1 === 0.5 ? 2 * Math.round(value / 2) : Math.round(value));

/** Grey {data, width, height} of anything that a canvas can draw. */
export function grayOf(image, width, height) {
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext('2d', { willReadFrequently: true });
  // Transparent pixels become white.
  context.fillStyle = '#fff';
  context.fillRect(0, 0, width, height);
  context.drawImage(image, 0, 0, width, height);
  const rgba = context.getImageData(0, 0, width, height).data;
  const data = new Uint8ClampedArray(width * height);
  for (let i = 0, j = 0; i < data.length; i += 1, j += 4) {
    data[i] = 0.299 * rgba[j] + 0.587 * rgba[j + 1] + 0.114 * rgba[j + 2];
  }
  return { data, width, height };
}

// For each new pixel the old pixels that it covers, with their shares of its area.
function areas(from, to) {
  const scale = from / to;
  return Array.from({ length: to }, (_, i) => {
    const [low, high] = [i * scale, (i + 1) * scale];
    const first = Math.floor(low + 1e-9);
    const last = Math.min(from - 1, Math.ceil(high - 1e-9) - 1);
    const shares = [];
    for (let k = first; k <= last; k += 1) shares.push((Math.min(high, k + 1) - Math.max(low, k)) / scale);
    return { first, shares };
  });
}

/** A grey image made smaller; each new pixel is the mean of its area. */
export function shrink({ data, width, height }, newWidth, newHeight) {
  const columns = areas(width, newWidth);
  const rows = areas(height, newHeight);
  const wide = new Float32Array(newWidth * height);
  for (let y = 0; y < height; y += 1) {
    for (let x = 0; x < newWidth; x += 1) {
      const { first, shares } = columns[x];
      let sum = 0;
      for (let k = 0; k < shares.length; k += 1) sum += shares[k] * data[y * width + first + k];
      wide[y * newWidth + x] = sum;
    }
  }
  const out = new Uint8ClampedArray(newWidth * newHeight);
  for (let y = 0; y < newHeight; y += 1) {
    const { first, shares } = rows[y];
    for (let x = 0; x < newWidth; x += 1) {
      let sum = 0;
      for (let k = 0; k < shares.length; k += 1) sum += shares[k] * wide[(first + k) * newWidth + x];
      out[y * newWidth + x] = sum;
    }
  }
  return { data: out, width: newWidth, height: newHeight };
}

/** A grey image under a map; outside of the image its edge is repeated. */
export function warp({ data, width, height }, map, newWidth, newHeight = newWidth) {
  const back = inverse(map);
  const out = new Uint8ClampedArray(newWidth * newHeight);
  for (let v = 0; v < newHeight; v += 1) {
    for (let u = 0; u < newWidth; u += 1) {
      const [px, py] = apply(back, [u, v]);
      const x = Math.min(width - 1, Math.max(0, px));
      const y = Math.min(height - 1, Math.max(0, py));
      const [x0, y0] = [Math.floor(x), Math.floor(y)];
      const [x1, y1] = [Math.min(width - 1, x0 + 1), Math.min(height - 1, y0 + 1)];
      const [fx, fy] = [x - x0, y - y0];
      const top = data[y0 * width + x0] * (1 - fx) + data[y0 * width + x1] * fx;
      const bottom = data[y1 * width + x0] * (1 - fx) + data[y1 * width + x1] * fx;
      out[v * newWidth + u] = top * (1 - fy) + bottom * fy;
    }
  }
  return out;
}

/** A grey image in another size. */
export function resize(gray, width, height) {
  if (width === gray.width && height === gray.height) return gray;
  if (width < gray.width || height < gray.height) return shrink(gray, width, height);
  const [sx, sy] = [width / gray.width, height / gray.height];
  return { data: warp(gray, [sx, 0, 0.5 * sx - 0.5, 0, sy, 0.5 * sy - 0.5], width, height), width, height };
}

/** The part of a grey image inside of edges [x0, y0, x1, y1], which are whole numbers. */
export function part(gray, [x0, y0, x1, y1]) {
  if (x1 - x0 === gray.width && y1 - y0 === gray.height) return gray;
  const out = { data: new Uint8ClampedArray((x1 - x0) * (y1 - y0)), width: x1 - x0, height: y1 - y0 };
  for (let y = y0; y < y1; y += 1) {
    out.data.set(gray.data.subarray(y * gray.width + x0, y * gray.width + x1), (y - y0) * out.width);
  }
  return out;
}

/** A grey image turned by a quarter, counterclockwise. */
export function turnLeft({ data, width, height }) {
  const out = new Uint8ClampedArray(data.length);
  for (let y = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1) out[(width - 1 - x) * height + y] = data[y * width + x];
  }
  return { data: out, width: height, height: width };
}

/** Cut the square crop of a map; large faces are averaged first, to avoid aliasing. */
export function cutCrop(gray, map, side) {
  const corners = [[-0.5, -0.5], [side - 0.5, -0.5], [-0.5, side - 0.5], [side - 0.5, side - 0.5]];
  const reach = corners.map((corner) => apply(inverse(map), corner));
  const bound = (axis, limit) => {
    const values = reach.map((point) => point[axis]);
    const low = Math.min(limit - 1, Math.max(0, Math.floor(Math.min(...values)) - 2));
    return [low, Math.min(limit, Math.max(low + 1, Math.ceil(Math.max(...values)) + 3))];
  };
  const [x0, x1] = bound(0, gray.width);
  const [y0, y1] = bound(1, gray.height);
  let seen = part(gray, [x0, y0, x1, y1]);
  let own = compose(map, [1, 0, x0, 0, 1, y0]);
  const scale = Math.sqrt(Math.abs(map[0] * map[4] - map[1] * map[3]));
  if (scale < 0.7) {
    const columns = Math.max(1, round(seen.width * scale));
    const rows = Math.max(1, round(seen.height * scale));
    const [sx, sy] = [seen.width / columns, seen.height / rows];
    own = compose(own, [sx, 0, 0.5 * sx - 0.5, 0, sy, 0.5 * sy - 0.5]);
    seen = shrink(seen, columns, rows);
  }
  return warp(seen, own, side);
}
