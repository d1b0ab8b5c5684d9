// The loop of every Node client: an errand a line on stdin, a note of what came of it a line on stdout.
// A client runs in a folder of its own beside its packages, so it knows nothing of the tests but this module.

import { createInterface } from "node:readline";
import { z } from "zod";

export const PIECES_BEFORE_LEAVING = 3;
const MEGABYTE = 2 ** 20;
export const RESULT = "It is fine.";
export const WEATHER = z.object({ city: z.string(), days: z.int() });
export const CLOCK = z.object({ zone: z.string() });
export const HARBOUR = z.object({
  name: z.string(),
  berths: z.int(),
  open: z.boolean(),
  ships: z.array(z.string()),
});

export async function serve(operations, described) {
  for await (const line of createInterface({ input: process.stdin })) {
    const errand = JSON.parse(line);
    errand.text += "x".repeat(errand.megabytes * MEGABYTE);
    errand.messages = [{ role: "user", content: errand.text }];
    const begun = performance.now();
    let note;
    try {
      note = await operations[errand.do](errand);
    } catch (error) {
      note = { error: described(error) };
    }
    note.seconds = (performance.now() - begun) / 1000;
    process.stdout.write(JSON.stringify(note) + "\n");
  }
}
