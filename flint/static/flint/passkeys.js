// What allauth's scripts say when a passkey was not given, as a sentence on the page.
const fault = document.getElementById("passkey-fault");

document.addEventListener("allauth.error", (event) => {
  if (!fault) return;
  event.preventDefault();
  fault.hidden = false;
  fault.textContent = event.detail.exception?.name === "InvalidStateError"
    ? "This device already holds a passkey for you."
    : "No passkey was given: it was cancelled, or took too long. Try again.";
});
