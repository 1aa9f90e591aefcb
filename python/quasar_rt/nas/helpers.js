const at = (id) => document.getElementById(id);
const svgNs = "http://www.w3.org/2000/svg";

// Every text goes in as a text node or an attribute: names from files never become markup.
function node(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) element.setAttribute(name, value);
  element.append(...children);
  return element;
}
function shape(tag, attributes, ...children) {
  const element = document.createElementNS(svgNs, tag);
  for (const [name, value] of Object.entries(attributes || {})) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const asked = (value) => value.toLocaleString("en", {maximumFractionDigits: 10});
const millions = (value) => value < 1e7 ? (value / 1e6).toPrecision(3) : digits(value / 1e6, 1);
const digits = (value, places) => value.toLocaleString("en", {minimumFractionDigits: places, maximumFractionDigits: places});
const whole = (value) => digits(value, 0);
const percent = (value, places = 2) => digits(100 * value, places) + "\u202f%";
const rate = (value) => digits(value, value < 10 ? 2 : value < 1000 ? 1 : 0);
const milliseconds = (f) => f.latency_ms < 1 ? f.latency_ms.toPrecision(3) : digits(f.latency_ms, 2);

function ticks(low, high, count) {
  const step = 10 ** Math.floor(Math.log10((high - low) / count));
  const unit = [1, 2, 2.5, 5, 10].map((m) => m * step).find((u) => (high - low) / u <= count);
  const found = [];
  for (let i = Math.ceil(low / unit - 1e-9); i * unit <= high + unit * 1e-9; i++) found.push(i * unit + 0);
  return [found, unit];
}

// The decimal places that a step between ticks needs: 0.25 needs two.
function placesOf(unit) {
  const places = Math.max(0, -Math.floor(Math.log10(unit) + 1e-9)), steps = unit * 10 ** places;
  return Math.abs(steps - Math.round(steps)) > 1e-6 ? places + 1 : places;
}

function spread(values) {
  let low = Math.min(...values), high = Math.max(...values);
  const room = (high - low || Math.abs(high) || 1) * 0.06;
  return [low - room, high + room];
}

// A configuration of the accelerator, in words.
function design(hardware) {
  const {array, lanes} = hardware, ratio = array.clock_ratio ?? 1;
  return `${array.tokens} \u00d7 ${array.pairs} \u00d7 ${array.cascade ?? 1} slices at ${digits(hardware.clock_mhz * ratio, 0)} MHz, ` +
    `kernels at ${digits(hardware.clock_mhz, 0)} MHz; lanes ${lanes.requantize} / ${lanes.norm} / ${lanes.exponential}`;
}
const energy = (f) => f.energy_mj === null || f.energy_mj === undefined ? "\u2013" : f.energy_mj < 1 ? f.energy_mj.toPrecision(3) : digits(f.energy_mj, 2);
const share = (use) => percent(use.used / use.available, 0);
// The two readings of a frame rate: that of the targets, and the other one.
const ofAccelerator = doc.settings.fps_of === "accelerator";
const [targetsFps, otherFps] = ofAccelerator ? ["fps", "fps_with_host"] : ["fps_with_host", "fps"];
const readings = {fps: "FPS, accelerator alone", fps_with_host: "FPS with the processor"};
