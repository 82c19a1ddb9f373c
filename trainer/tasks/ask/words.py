"""Common English nouns, each with a plural in plain s: the material of questions about words."""

from __future__ import annotations

from typing import Final

_NOUNS: Final = """
    actor airport album alarm anchor angel animal ankle apple arrow artist author badge baker ball banana band bank
    banner barn barrel basin basket bean bear beard bed bell belt bird blanket block boat bone book boot border
    bottle bowl boy bracelet bread brick bridge broom brother bucket builder bullet button cabin cable cage cake
    camel camera camp canal candle captain car card carpet carrot cart castle cat cave ceiling cellar chain chair
    chapter chart cheek chef chicken circle clerk clock cloud clown coal coast coat coin collar comb
    cookie corner cottage cotton cousin cow crab cradle crater cream creek crop crowd crown cup curtain cushion dancer
    daughter desert desk diamond diner doctor dog doll dollar donkey door dragon drawer dream driver drum duck
    eagle ear editor egg elbow engine envelope eye factor farm farmer father feather fence field finger flag flame
    floor flower flute forest fork fossil fountain friend frog fruit garden gate ghost giant gift girl glove goat
    grape guest guitar hair hall hammer hand harbor hat hawk heart helmet hill hook horn horse hospital hotel hour
    house hunter insect island jacket jar jewel judge jungle kettle key king kitchen kite kitten ladder lake lamp
    lawyer leader legend lemon letter lion lizard lock lord machine magnet map market mask meadow meal medal
    melon minute mirror monkey month moon mother motor mountain muffin museum nail napkin neck needle nest net
    nickel night notebook nurse oak ocean office olive onion orange orchard organ oven owl owner package page painter
    palace pan panda panel paper parent parrot pearl pen pencil pepper piano picture pigeon pillow pilot pin
    pipe pirate planet plate pocket poem poet pond pool potter prince printer pumpkin puppet puzzle queen question
    rabbit radio raft ranger rat razor ribbon rider ring river road robot rocket roof room rope rose ruler sailor
    salad sandal school scooter screen seal seat secret seed shadow sheet shell ship shirt shoe shop
    shoulder shovel signal singer sister skirt slipper snail snake soldier song soup spider spoon squirrel stable
    stair stamp star station stone store storm stove stream street student summer sweater swing sword table
    tailor teacher temple tent theater thread throat throne thumb ticket tiger tile timer toad toe tomb tool towel tower
    town toy tractor trail train tree truck trumpet tunnel turtle uncle valley vase vest village violin wagon waiter
    wall wallet walnut weapon well whale wheel whistle wing winter wizard worker wrist writer yard zebra
    badger blossom canyon carpenter chimney cricket dolphin eyebrow falcon gallon hamster hornet
"""
NOUNS: Final = tuple(_NOUNS.split())
