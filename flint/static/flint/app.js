// What pages gain where scripts run; each of them also works without.
document.documentElement.classList.add("scripted");

const announcements = document.getElementById("announcements");

function announce(text) {
  announcements.textContent = "";
  requestAnimationFrame(() => { announcements.textContent = text; });
}

// <button data-copy="ID">: copies the value or the text of that element.
async function copy(button) {
  const source = document.getElementById(button.dataset.copy);
  const text = "value" in source ? source.value : source.textContent;
  const label = button.dataset.label ?? (button.dataset.label = button.textContent);
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
    announce("Copied");
  } catch {
    // Without the right to write, or without https: the person copies what is now selected.
    const range = document.createRange();
    range.selectNodeContents(source);
    "select" in source ? source.select() : getSelection().addRange(range);
    button.textContent = "Press Ctrl+C";
    announce("Selected; press Control C to copy");
  }
  setTimeout(() => { button.textContent = label; }, 2000);
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-copy]");
  if (button) copy(button);
});

// A second click on the same button sends nothing more.
document.addEventListener("submit", (event) => {
  const form = event.target;
  if (form.method === "dialog" || event.defaultPrevented) return;
  if (form.dataset.sent) return event.preventDefault();
  if (form.method === "post") form.dataset.sent = "yes";
});
addEventListener("pageshow", () => {
  for (const form of document.querySelectorAll("form[data-sent]")) delete form.dataset.sent;
});

// Times are shown in UTC, as they are billed; the title tells the viewer's own.
function tellLocalTimes(root) {
  for (const time of root.querySelectorAll("time[datetime*='T']")) {
    const moment = new Date(time.dateTime);
    if (!Number.isNaN(moment.getTime())) time.title = `${moment.toLocaleString()} (your time)`;
  }
}
tellLocalTimes(document);
document.addEventListener("htmx:load", (event) => tellLocalTimes(event.target));

// A part of a page that asks again and again rests while nobody sees it.
document.addEventListener("htmx:beforeRequest", (event) => {
  if (document.hidden && event.target.matches("[data-poll]")) event.preventDefault();
});

// The contents of a long page show which of its sections is being read.
const contents = document.querySelector(".contents");
if (contents) {
  const links = new Map([...contents.querySelectorAll("a")].map((link) => [link.hash.slice(1), link]));
  const show = (current) => {
    for (const link of links.values()) link.removeAttribute("aria-current");
    current.setAttribute("aria-current", "true");
    current.closest("ul").scrollLeft = current.offsetLeft - 16;
  };
  const watch = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) if (isIntersecting) show(links.get(target.id));
  }, { rootMargin: "-15% 0px -80% 0px" });
  show([...links.values()][0]);
  for (const id of links.keys()) watch.observe(document.getElementById(id));
}
