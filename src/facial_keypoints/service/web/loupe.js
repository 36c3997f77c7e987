// The loupe: a place of the image, enlarged, in a corner of the canvas.

const SIDE = 176; // pixels of the screen
const TIMES = 4; // as large as the image beside it, and at least this many pixels of the screen for one of the image

/**
 * Draw the loupe onto a context whose units are screen pixels.
 * @param size of the canvas, in screen pixels
 * @param view the map {scale, x, y} of the image beside it
 * @param place [x, y], in pixels of the image: it is in the middle
 * @param drawImage (context, view) draws the image and its points with another map
 */
export function drawLoupe(context, { width, height }, view, [x, y], drawImage) {
  const scale = Math.min(64, Math.max(TIMES, TIMES * view.scale));
  // Beside the place, never above it.
  const left = (x + 0.5) * view.scale + view.x > width / 2 ? 10 : width - SIDE - 10;
  const top = height - SIDE - 10;
  const [middleX, middleY] = [left + SIDE / 2, top + SIDE / 2];
  context.save();
  context.beginPath();
  context.rect(left, top, SIDE, SIDE);
  context.fillStyle = '#101418';
  context.fill();
  context.clip();
  drawImage(context, { scale, x: middleX - (x + 0.5) * scale, y: middleY - (y + 0.5) * scale });
  for (const [wide, color] of [[3, '#101418'], [1, '#fff']]) {
    context.lineWidth = wide;
    context.strokeStyle = color;
    context.beginPath();
    for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) { // a cross that is open in the middle
      context.moveTo(middleX + 12 * dx, middleY + 12 * dy);
      context.lineTo(middleX + 40 * dx, middleY + 40 * dy);
    }
    context.stroke();
    context.strokeRect(left, top, SIDE, SIDE);
  }
  context.restore();
}
