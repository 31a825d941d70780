"""Word lists of the built-in world. Every name here is invented."""

from __future__ import annotations

FIRST = (
    "Alma Bruno Celia Dario Edda Fabio Greta Hugo Irma Jonas Karla Lorenz Mira Nestor Olga Pavel "
    "Quinta Remo Selma Tibor Ulla Viktor Wanda Xaver Yara Zeno Agnes Boris Clara Desmond Elsa Felix "
    "Gilda Henrik Ines Jasper Kira Lukas Magda Nils Odette Piet Rosa Stefan Thea Umberto Vera Wim"
).split()

LAST = (
    "Abernol Bastrix Corvane Delmonde Estrow Farquand Gelbrit Hartuno Ilvane Jostrel Kelmarsh "
    "Lindquor Morvath Nestrade Oswick Pellmore Quandry Rastholm Severin Talbrun Ulfgard Vantreux "
    "Westmarn Yarrowick Zellhof Ambrecht Brenville Castorly Dunmarch Elverton Fenwold Garrick"
).split()

TOWN = (
    "Arlen Brackwater Calder Dunmoor Eastmere Fallowdale Glimmer Harrowgate Ivybridge Jarrow "
    "Kestrel Lowmarsh Milbrook Northam Oakhollow Pinewick Quarry Redcliff Stonebury Thornfield "
    "Underhill Valecross Windermoor Yewdale"
).split()

TRADE = (
    "baker|carpenter|dentist|engineer|farmer|gardener|historian|jeweller|lawyer|mason|nurse|optician|"
    "painter|printer|sailor|surgeon|tailor|teacher|translator|weaver|botanist|chemist|librarian|pilot"
).split("|")

EMPLOYER = (
    "the Amber Guild|the Blue Harbour Company|the Cobalt Institute|the Dawn Clinic|the Elm Foundry|"
    "the Falcon Archive|the Granite Bank|the Heron Press|the Iron Theatre|the Jade Museum|"
    "the Kite Laboratory|the Lantern School|the Maple Court|the Nimbus Observatory|the Opal Hotel|"
    "the Poplar Library|the Quill Society|the Raven Market|the Silver Mill|the Tulip Garden"
).split("|")

INSTRUMENT = (
    "accordion|bagpipe|bassoon|cello|clarinet|cornet|drum|fiddle|flute|guitar|harp|horn|lute|mandolin|"
    "oboe|organ|piano|sitar|trombone|trumpet|tuba|viola|violin|zither"
).split("|")

PET = (
    "badger|beagle|canary|cockatoo|crow|donkey|falcon|ferret|finch|gecko|goat|hamster|hedgehog|iguana|"
    "lizard|magpie|otter|parrot|pony|rabbit|raven|spaniel|terrier|tortoise"
).split("|")

DISH = (
    "apple pie|barley soup|cabbage rolls|carrot stew|cheese toast|cherry cake|fish curry|fried rice|"
    "garlic bread|ginger biscuits|honey porridge|leek tart|lemon pudding|lentil salad|mushroom pasta|"
    "onion bread|pea soup|plum dumplings|potato gratin|pumpkin risotto|roast duck|salmon pie|"
    "spinach omelette|walnut cake"
).split("|")
