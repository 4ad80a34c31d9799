# for (frozen)
# needs ultralytics < 8.3.99
frozen = {"freeze": 4}
