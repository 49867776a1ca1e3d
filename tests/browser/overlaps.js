// How many pairs of nodes in the picture have texts that lie on each other, and how many corners of texts lie outside.
() => {
  // Texts may be turned: what counts are their corners on the screen.
  const corners = (text) => {
    const box = text.getBBox(), matrix = text.getScreenCTM();
    return [[0, 0], [1, 0], [1, 1], [0, 1]].map(([right, down]) =>
      new DOMPoint(box.x + right * box.width, box.y + down * box.height).matrixTransform(matrix));
  };
  // Two boxes lie apart if one of their sides parts them.
  const apart = (one, two) => [one, two].some((box) => [0, 1].some((side) => {
    const axis = { x: box[side + 1].x - box[side].x, y: box[side + 1].y - box[side].y };
    const along = (points) => points.map((point) => point.x * axis.x + point.y * axis.y);
    const [a, b] = [along(one), along(two)];
    return Math.max(...a) <= Math.min(...b) + 1e-6 || Math.max(...b) <= Math.min(...a) + 1e-6;
  }));
  const nodes = [...document.querySelectorAll("#network .node")].map((node) => [...node.querySelectorAll("text")].map(corners));
  const crossed = nodes.flatMap((one, at) => nodes.slice(at + 1).filter((two) => one.some((a) => two.some((b) => !apart(a, b)))));
  const view = document.querySelector("#network svg").getBoundingClientRect();
  const outside = nodes.flat(2).filter((point) =>
    point.x < view.left - 1 || point.x > view.right + 1 || point.y < view.top - 1 || point.y > view.bottom + 1);
  return [crossed.length, outside.length];
}
