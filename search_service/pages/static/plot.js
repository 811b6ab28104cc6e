// The front, by Plotly, from the figures that stand in the page.

const FONT = "system-ui, sans-serif";
const LOOKS = {
  front: { symbol: "circle", size: 9, colour: "--front", line: "hv", bars: true },
  full: { symbol: "square-open", size: 10, colour: "--ink", bars: true },
  plain: { symbol: "x", size: 10, colour: "--plain", bars: false },
  baseline: { symbol: "square", size: 13, colour: "--ink", bars: true },
  answer: { symbol: "star", size: 20, colour: "--accent", bars: true },
  "state-dropped": { symbol: "x-thin", size: 7, colour: "--faint", bars: false },
  "state-pending": { symbol: "circle", size: 7, colour: "--faint", bars: true },
  "state-survived": { symbol: "diamond", size: 10, colour: "--front", bars: true },
  "state-unresolved": { symbol: "triangle-up", size: 11, colour: "--plain", bars: true },
  "state-unqualified": { symbol: "triangle-down", size: 11, colour: "--loss", bars: true },
  "state-qualified": { symbol: "star", size: 16, colour: "--accent", bars: true },
};
const NARROW = 560; // pixels of the plot under which its legend stands below it

let plot = null;
let plane = null;
let width = 0;

const resized = new ResizeObserver(() => {
  if (plot.clientWidth !== width) show();
});

export function draw() {
  const data = document.getElementById("plane-data");
  if (data === null || window.Plotly === undefined) return;
  plane = JSON.parse(data.textContent);
  if (plot !== document.getElementById("plot")) {
    resized.disconnect();
    plot = document.getElementById("plot");
    plot.hidden = false;
    resized.observe(plot);
  }
  show();
}

function show() {
  const colour = colours();
  width = plot.clientWidth;
  const narrow = width < NARROW;
  window.Plotly.react(plot, plane.series.map((series) => trace(series, colour)), layout(colour, narrow), {
    displayModeBar: false,
    displaylogo: false,
    doubleClick: "reset",
    showTips: false,
  }).then(() => {
    plot.removeAllListeners("plotly_click");
    plot.on("plotly_click", ({ points: [point] }) => { if (point.customdata) location.assign(point.customdata); });
  });
}

function colours() {
  const style = getComputedStyle(document.documentElement);
  return (name) => style.getPropertyValue(name).trim();
}

function trace({ kind, name, points }, colour) {
  const look = LOOKS[kind];
  const paint = colour(look.colour);
  const symbol = (point) => (point.is_predicted && !/open|thin/.test(look.symbol) ? `${look.symbol}-open` : look.symbol);
  const bar = (end) => points.map((point) => (point.low === null ? 0 : Math.abs(point[end] - point.height)));
  return {
    type: "scatter",
    name,
    x: points.map((point) => point.latency_ms),
    y: points.map((point) => point.height),
    customdata: points.map((point) => point.address),
    text: points.map((point) => `${point.candidate}: ${point.said}`),
    hovertemplate: "%{text}<extra></extra>",
    mode: look.line ? "lines+markers" : "markers",
    line: { shape: look.line, width: 1.4, color: paint },
    marker: { symbol: points.map(symbol), size: look.size, color: paint, line: { color: paint, width: 1.4 } },
    error_y: {
      visible: look.bars, type: "data", symmetric: false, array: bar("high"), arrayminus: bar("low"),
      color: paint, thickness: 1, width: 3,
    },
  };
}

function layout(colour, narrow) {
  const ink = colour("--ink");
  const axis = {
    gridcolor: colour("--line"), linecolor: colour("--line"), tickcolor: colour("--line"), showline: true,
    zeroline: false, tickfont: { color: colour("--faint") },
  };
  const level = (height, paint, dash) => ({
    type: "line", xref: "paper", x0: 0, x1: 1, y0: height, y1: height, layer: "above", line: { color: paint, width: 1.4, dash },
  });
  // Beside the plane where there is room, else at the side where points are few.
  const named = (height, text, paint, yanchor) => ({
    text, xref: "paper", x: 1, y: height, showarrow: false, font: { color: paint, size: 12 },
    xanchor: narrow ? "right" : "left", yanchor: narrow ? yanchor : "middle", xshift: narrow ? 0 : 6,
  });
  return {
    autosize: true,
    height: narrow ? 420 : 460,
    margin: { l: narrow ? 52 : 68, r: narrow ? 8 : 76, t: 16, b: 48 },
    font: { family: FONT, size: 13, color: ink },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    hovermode: "closest",
    hoverlabel: { bgcolor: colour("--paper"), bordercolor: colour("--faint"), font: { color: ink, size: 12 } },
    dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
    showlegend: true,
    legend: { orientation: "h", x: 0, y: -0.2, yanchor: "top", font: { size: 12 } },
    transition: { duration: 0 },
    xaxis: { type: "log", title: { text: narrow ? "latency (ms, log)" : "latency of one adaptation (ms, log)", standoff: 8 }, tickvals: ticks(), tickformat: "~r", ...axis },
    yaxis: { title: narrow ? undefined : { text: plane.metric }, range: plane.heights, nticks: 7, ...axis },
    shapes: [
      level(plane.threshold, colour("--loss"), "dash"),
      level(plane.level, colour("--faint"), "dot"),
    ],
    annotations: [
      named(plane.threshold, "threshold", colour("--loss"), "top"),
      named(plane.level, "baseline", colour("--faint"), "bottom"),
    ],
  };
}

// 1, 2, 5 and their tens: Plotly's own ticks of a log axis are either too many or too few.
function ticks() {
  const latencies = plane.series.flatMap(({ points }) => points.map((point) => point.latency_ms));
  const first = Math.floor(Math.log10(Math.min(...latencies))) - 1;
  const last = Math.ceil(Math.log10(Math.max(...latencies))) + 1;
  const tens = Array.from({ length: last - first + 1 }, (_, at) => 10 ** (first + at));
  return tens.flatMap((ten) => [1, 2, 5].map((digit) => Number((digit * ten).toPrecision(1))));
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { if (plane !== null) show(); });
