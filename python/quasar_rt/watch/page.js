"use strict";
// Shows what /events sends. Texts are set as text, never as HTML: names of files and classes are not trusted.
const find = (id) => document.getElementById(id);
const percent = (value) => `${(100 * value).toFixed(1)} %`;
const whole = (value) => value.toLocaleString("en");
const milliseconds = (value) => `${value.toFixed(value < 10 ? 2 : 1)} ms`;
const percentile = (latency, name) => (latency ? milliseconds(latency[name]) : "none yet");

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function numbers(list, entries) {
  while (list.children.length > 2 * entries.length) list.lastChild.remove();
  while (list.children.length < 2 * entries.length) {
    list.append(document.createElement("dt"), document.createElement("dd"));
  }
  entries.forEach(([name, value], place) => {
    setText(list.children[2 * place], name);
    setText(list.children[2 * place + 1], value);
  });
}

function classes(scores) {
  const body = find("classes").tBodies[0];
  while (body.rows.length > scores.length) body.deleteRow(-1);
  while (body.rows.length < scores.length) {
    const row = body.insertRow();
    row.insertCell();
    const bar = row.insertCell();
    bar.className = "bar";
    bar.append(document.createElement("progress"));
    row.insertCell();
  }
  scores.forEach((score, place) => {
    const [label, bar, probability] = body.rows[place].cells;
    setText(label, score.label);
    bar.firstChild.value = score.probability;
    bar.firstChild.setAttribute("aria-label", score.label);
    setText(probability, percent(score.probability));
  });
}

function picture(state) {
  const image = find("picture");
  if (!state.picture) {
    image.hidden = true;
    image.removeAttribute("src");
    return;
  }
  const source = `picture/${state.number}.jpg`;
  if (image.getAttribute("src") !== source) {
    image.src = source;
    image.alt = state.last.image;
  }
  image.hidden = false;
}

function show(state) {
  setText(find("subnet"), state.subnet);
  setText(find("about"), `${state.knows} · ${state.device} · ${state.source}`);
  setText(find("kind"), state.kind);
  const { last, metrics } = state;
  find("problem").hidden = !state.problem;
  setText(find("problem"), state.problem || "");
  document.title = last && last.label ? `${last.label} · quasar_rt` : "quasar_rt";
  if (last) {
    setText(find("image"), last.image);
    setText(find("time"), new Date(last.time).toLocaleString());
    find("error").hidden = !last.error;
    setText(find("error"), last.error || "");
    classes(last.top_k || []);
    picture(state);
  }
  numbers(find("latency"), [
    ["p50", percentile(metrics.latency_ms, "p50")],
    ["p90", percentile(metrics.latency_ms, "p90")],
    ["p99", percentile(metrics.latency_ms, "p99")],
    ["images a second", metrics.fps.toFixed(1)],
  ]);
  numbers(find("counters"), [
    ["images", whole(metrics.frames)],
    ["dropped", whole(metrics.dropped)],
    ["errors", whole(metrics.errors)],
  ]);
  find("device-title").hidden = !metrics.device;
  const device = Object.entries(metrics.device || {});
  numbers(find("device"), device.map(([name, value]) => [name.replaceAll("_", " "), whole(value)]));
}

function link(text, kind) {
  setText(find("link"), text);
  find("link").className = kind;
}

find("picture").addEventListener("load", (event) => {
  event.target.classList.toggle("small", event.target.naturalWidth < 160);
});

const events = new EventSource("events");
events.addEventListener("message", (event) => {
  show(JSON.parse(event.data));
  link("live", "live");
  document.documentElement.dataset.ready = "yes";
});
events.addEventListener("end", () => {
  events.close();
  link("ended", "lost");
});
events.addEventListener("error", () => {
  if (events.readyState === EventSource.CLOSED) link("refused: load the page again", "lost");
  else link("connection lost, trying again", "lost");
});
