// Numbers as people read them.

export const count = (value) => value.toLocaleString("en");
export const params = (value) => (value >= 1e9 ? `${(value / 1e9).toFixed(2)}B` : `${(value / 1e6).toFixed(1)}M`);
export const seconds = (ms) => (ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(2)} s`);

// Rounded up, as the server rounds: a budget of what is shown here fits.
export function bytes(amount) {
  const [unit, scale] = amount >= 2 ** 30 ? ["GiB", 2 ** 30] : ["MiB", 2 ** 20];
  return `${(Math.ceil((amount * 10) / scale) / 10).toFixed(1)}${unit}`;
}
