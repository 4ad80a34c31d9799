# for (guard)
# needs ultralytics
from bn_guard import add_guard

add_guard(model, freeze=FREEZE)
