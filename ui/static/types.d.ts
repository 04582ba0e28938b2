// What gr.HTML provides to a script, and the JSON that Python sends. Only for type checking.

/** The component's root. */
declare const element: HTMLElement;
/** Its value and other props, all strings. A new `value` is sent to Python. */
declare const props: Record<string, string>;
/** Calls `run` whenever Python sets one of these props. */
declare function watch(names: string | string[], run: () => void): void;
/** Fires an event for Python. */
declare function trigger(event: string, data?: Record<string, unknown>): void;

interface Figure { data?: object[]; layout?: object }
interface Window {
  Plotly?: {
    react(place: HTMLElement, data: object[], layout: object, config: object): void;
    Plots: { resize(place: HTMLElement): void };
  };
}

// ui/panels/model_field.py
interface ModelGroup { title: string; items: { name: string; detail: string }[] }
interface FoundModels { query?: string; items?: ModelGroup["items"]; offline?: boolean; note?: string }

// ui/panels/modules.py
type Treatment = "lora" | "full";
interface Tick {
  name: string; treatment: Treatment;
  r?: string | number; lora_alpha?: string | number; lr?: string | number; layers?: string | number;
}
interface MatchReport { note: string; ok: boolean; layers?: number[] | null }
interface Preset { key: string; title: string; note: string; ticks: Tick[] }
interface PresetGroup { title: string; own: boolean; presets: Preset[] }
interface ModuleRow {
  name: string; treatments: Treatment[]; first: Treatment | ""; note: string;
  slice_of?: string | null; reason?: string; size?: string; layered?: boolean; missing?: boolean;
}
interface ModuleGroup { key: string; title: string; hint: string; rows: ModuleRow[] }
interface ModulesMap {
  state: string; title?: string; text?: string; fact?: string;
  groups?: ModuleGroup[]; picture?: Section[]; presets?: PresetGroup[]; own?: PresetGroup[]; problem?: string;
}

// ui/views/block_picture.py
interface Slice { name: string; label: string; share: number; shape?: undefined; tied?: undefined }
interface Unit { name: string; holder: string; shape: string; times: number; slices: Slice[]; tied: string; frozen: boolean }
interface Part {
  role: string; title: string; name: string; takes: number[]; outside: boolean; says: string;
  rows: Unit[][][]; loose: Unit[];
}
interface Pattern {
  layers: number[]; title: string; note: string; measured: boolean; lanes: number;
  rows: number[][]; parts: Part[]; gives: number; aside: Unit[];
}
interface Section { stack: string; count: number; follows: boolean; patterns: Pattern[] }

// ui/tabs/runs.py, ui/views/comparison.py, ui/panels/scenarios.py
interface Run { id: string; state: string; shown: Record<string, string>; [key: string]: any }
interface Result { color: string; raw: Record<string, unknown>; shown: Record<string, string> }
interface Results { columns: { key: string; title: string }[]; groups: Result[]; runs: Result[]; csv: string }
interface Choice { id: string; name: string; state: string; note: string }
interface ScenarioRow {
  key: string; title: string; said: string; on: boolean; free: boolean; issues: string[];
  receipts: { tick: string; text: string; ok: boolean }[];
}

// ui/panels/live_run.py
interface RunState { id: string; name: string; state: string; open: boolean; progress: string; result: string }

// ui/panels/device.py
interface DeviceUsage { line: string; rows: string[][] }

// ui/panels/samples.py
interface SamplePrompt { text: string; before: string; reference: string }
interface Samples {
  run: string; note: string; prompts: SamplePrompt[];
  evaluations: { step: number; answers: { text: string; ended: boolean }[] }[];
}
