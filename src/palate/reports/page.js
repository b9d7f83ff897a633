// Without this script every picture is simply shown, side by side.
const wall = document.querySelector(".wall");
if (wall && wall.querySelector("#cut")) {
  const cut = wall.querySelector("#cut"), which = wall.querySelector("#which"), every = wall.querySelector("#every");
  const more = wall.querySelector("#more"), fold = 12;
  const other = () => which.dataset.name || which.selectedOptions[0].text;
  const show = () => {
    wall.classList.toggle("sliding", !every.checked);
    wall.classList.toggle("end", cut.value === "0" || cut.value === "100");
    wall.style.setProperty("--cut", cut.value + "%");
    cut.disabled = every.checked;
    cut.setAttribute("aria-valuetext", `${cut.dataset.base} up to ${cut.value} % of the width, then ${other()}`);
    for (const shot of wall.querySelectorAll(".after")) shot.classList.toggle("hidden", shot.dataset.row !== which.value);
  };
  const move = (percent) => {
    cut.value = Math.round(percent);
    show();
  };
  let held = null; // the strip whose pointer is down: it is followed beyond the picture's edge
  const drag = (event) => {
    const box = held.getBoundingClientRect();
    move((100 * (event.clientX - box.left)) / box.width);
  };
  wall.addEventListener("pointerdown", (event) => {
    held = every.checked || event.button !== 0 ? null : event.target.closest(".strip");
    if (!held) return;
    held.setPointerCapture(event.pointerId);
    drag(event);
  });
  wall.addEventListener("pointermove", (event) => held && drag(event));
  for (const kind of ["pointerup", "pointercancel"]) wall.addEventListener(kind, () => (held = null));
  wall.addEventListener("dragstart", (event) => event.preventDefault());
  document.addEventListener("keydown", (event) => {
    const step = {ArrowLeft: -1, ArrowRight: 1}[event.key];
    const busy = event.altKey || event.ctrlKey || event.metaKey || every.checked || event.target.closest("input, select");
    if (!step || busy) return; // the slider itself and the selector have arrow keys of their own
    event.preventDefault();
    move(Number(cut.value) + (event.shiftKey ? 10 : 2) * step);
  });
  for (const control of [cut, which, every]) control.addEventListener("input", show);
  more.addEventListener("click", () => {
    wall.classList.remove("folded");
    more.hidden = true;
  });
  document.documentElement.classList.add("js");
  wall.classList.toggle("folded", wall.querySelectorAll(".tile").length > fold);
  more.hidden = !wall.classList.contains("folded");
  show();
}
