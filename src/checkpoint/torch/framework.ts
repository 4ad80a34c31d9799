import type { Framework } from '../checkpoint.js';
import { asModule } from './module-objects.js';
import { entriesOf, type PickleValue } from './pickle-values.js';

type Keys = ReadonlyMap<PickleValue, PickleValue>;

/** The keys of a saved dict by which a framework is told, most certain first. */
const MARKS: readonly (readonly [Framework, isMarked: (keys: Keys) => boolean])[] = [
  // lightning/pytorch/trainer/connectors/checkpoint_connector.py, dump_checkpoint
  ['lightning', (keys) => keys.has('pytorch-lightning_version')],
  ['lightning', (keys) => keys.has('optimizer_states') && (keys.has('callbacks') || keys.has('loops'))],
  // ultralytics/engine/trainer.py, save_model
  ['ultralytics', (keys) => keys.has('train_args') && keys.has('ema')],
  ['ultralytics', (keys) => [...keys.values()].some(isUltralyticsModule)],
  // mmengine/runner/runner.py, save_checkpoint
  [
    'mmengine',
    (keys) => keys.has('message_hub') || entriesOf(keys.get('meta'))?.has('mmengine_version') === true,
  ],
  // timm/utils/checkpoint_saver.py, _save; the ImageNet example of PyTorch writes `arch` alone
  [
    'timm',
    (keys) =>
      typeof keys.get('arch') === 'string' && (keys.has('state_dict_ema') || keys.get('version') === 2),
  ],
];

/** The framework whose marks a checkpoint of torch.save bears; undefined for a state dict or module of anyone's. */
export function findMarkedFramework(root: PickleValue): Framework | undefined {
  if (isUltralyticsModule(root)) return 'ultralytics';
  const keys = entriesOf(root);
  return keys === null ? undefined : MARKS.find(([, isMarked]) => isMarked(keys))?.[0];
}

function isUltralyticsModule(value: PickleValue): boolean {
  return asModule(value)?.classModule.startsWith('ultralytics.') === true;
}
