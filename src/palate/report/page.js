// Without this script every picture is simply shown, side by side.
const wall = document.querySelector(".wall");
if (wall && wall.querySelector("#cut")) {
  const cut = wall.querySelector("#cut"), which = wall.querySelector("#which"), every = wall.querySelector("#every");
  const more = wall.querySelector("#more"), fold = 12;
  const show = () => {
    wall.classList.toggle("sliding", !every.checked);
    wall.classList.toggle("end", cut.value === "0" || cut.value === "100");
    wall.style.setProperty("--cut", cut.value + "%");
    cut.setAttribute("aria-valuetext", `base up to ${cut.value} % of the width`);
    for (const shot of wall.querySelectorAll(".after")) shot.classList.toggle("hidden", shot.dataset.row !== which.value);
  };
  const drag = (event) => {
    const strip = event.target.closest(".strip");
    if (!strip || every.checked || !event.buttons) return;
    const box = strip.getBoundingClientRect();
    cut.value = Math.round((100 * (event.clientX - box.left)) / box.width);
    show();
  };
  for (const control of [cut, which, every]) control.addEventListener("input", show);
  for (const kind of ["pointerdown", "pointermove"]) wall.addEventListener(kind, drag);
  wall.addEventListener("dragstart", (event) => event.preventDefault());
  more.addEventListener("click", () => {
    wall.classList.remove("folded");
    more.hidden = true;
  });
  document.documentElement.classList.add("js");
  wall.classList.toggle("folded", wall.querySelectorAll(".tile").length > fold);
  more.hidden = !wall.classList.contains("folded");
  show();
}
