"""Signs and units that stand behind numbers, and what is said for them."""

from __future__ import annotations

from typing import Final

MONTHS: Final = (
    "Januar", "Februar", "März", "April", "Mai", "Juni",
    "Juli", "August", "September", "Oktober", "November", "Dezember",
)  # fmt: skip
SAID_MONTHS: Final = {1: ("Jänner",), 2: ("Feber",), 6: ("Juno",), 7: ("Julei",)}
CURRENCIES: Final[dict[str, tuple[str, str]]] = {  # the whole one, its hundredth
    "€": ("Euro", "Cent"), "EUR": ("Euro", "Cent"), "Euro": ("Euro", "Cent"), "euro": ("Euro", "Cent"),
    "$": ("Dollar", "Cent"), "USD": ("Dollar", "Cent"), "Dollar": ("Dollar", "Cent"),
    "£": ("Pfund", "Pence"), "GBP": ("Pfund", "Pence"), "Pfund": ("Pfund", "Pence"),
    "CHF": ("Franken", "Rappen"), "Franken": ("Franken", "Rappen"), "¥": ("Yen", "Sen"),
    "DM": ("Mark", "Pfennig"), "Mark": ("Mark", "Pfennig"),
}  # fmt: skip
SCALES: Final[dict[str, tuple[str, str]]] = {  # one of them, several
    "Mio": ("Million", "Millionen"), "Mrd": ("Milliarde", "Milliarden"), "Bio": ("Billion", "Billionen"),
    "Tsd": ("Tausend", "Tausend"),
}  # fmt: skip
# Behind a number alone. The first form is what training labels say.
UNITS: Final[dict[str, tuple[str, ...]]] = {
    "%": ("Prozent",), "‰": ("Promille",), "°C": ("Grad Celsius", "Grad"), "° C": ("Grad Celsius", "Grad"),
    "°F": ("Grad Fahrenheit",), "°": ("Grad",), "km/h": ("Kilometer pro Stunde", "Stundenkilometer", "kmh"),
    "m/s": ("Meter pro Sekunde",), "km²": ("Quadratkilometer",), "m²": ("Quadratmeter",),
    "cm²": ("Quadratzentimeter",), "qm": ("Quadratmeter",),
    "m2": ("Quadratmeter",), "km2": ("Quadratkilometer",), "m3": ("Kubikmeter",), "m³": ("Kubikmeter",),
    "cm³": ("Kubikzentimeter",),
    "km": ("Kilometer",), "cm": ("Zentimeter",), "mm": ("Millimeter",), "µm": ("Mikrometer",),
    "nm": ("Nanometer",), "kg": ("Kilogramm", "Kilo"), "mg": ("Milligramm",), "ml": ("Milliliter",),
    "cl": ("Zentiliter",), "ha": ("Hektar",), "kWh": ("Kilowattstunden",), "kW": ("Kilowatt",),
    "MW": ("Megawatt",), "GW": ("Gigawatt",), "PS": ("PS",), "Hz": ("Hertz",), "kHz": ("Kilohertz",),
    "MHz": ("Megahertz",), "GHz": ("Gigahertz",), "dB": ("Dezibel",), "kB": ("Kilobyte",),
    "KB": ("Kilobyte",), "MB": ("Megabyte", "MB"), "GB": ("Gigabyte", "GB"), "TB": ("Terabyte",),
    "min": ("Minuten",), "Min.": ("Minuten",), "Min": ("Minuten",), "Std.": ("Stunden",),
    "Std": ("Stunden",), "Sek.": ("Sekunden",), "ms": ("Millisekunden",), "mV": ("Millivolt",),
    "m": ("Meter",), "g": ("Gramm",), "l": ("Liter",), "t": ("Tonnen",), "h": ("Stunden",),
    "s": ("Sekunden",), "W": ("Watt",), "V": ("Volt",),
}  # fmt: skip
SINGULAR: Final = {
    "Minuten": "Minute", "Stunden": "Stunde", "Sekunden": "Sekunde", "Millisekunden": "Millisekunde",
    "Tonnen": "Tonne", "Kilowattstunden": "Kilowattstunde",
}  # fmt: skip
FEMININE: Final = frozenset(
    "minute stunde sekunde millisekunde tonne million milliarde billion kilowattstunde mark flasche tasse "
    "woche seite".split()
)
NEUTER: Final = frozenset(
    "kilo kilogramm gramm prozent promille pfund jahr hektar byte gigabyte watt".split()
)
MASCULINE: Final = frozenset(
    "liter meter kilometer zentimeter millimeter euro dollar tag monat becher löffel".split()
)
# Wherever they stand.
SIGNS: Final[dict[str, tuple[str, ...]]] = {
    "&": ("und",), "%": ("Prozent",), "‰": ("Promille",), "€": ("Euro",), "$": ("Dollar",),
    "£": ("Pfund",), "°": ("Grad",), "§": ("Paragraf", "Paragraph", "Paragrafen", "Paragraphen"),
}  # fmt: skip
# Rulers whose names numbers follow, so that XIV. behind them is no abbreviation.
RULERS: Final = (
    "Albert Alexander August Benedikt Benedict Bonifatius Christian Clemens Eduard Erich Ferdinand Franz "
    "Friedrich Georg Gregor Gustav Heinrich Innozenz Iwan Jakob Johann Johannes Joseph Karl Klemens Konrad "
    "Leo Leopold Ludwig Maximilian Napoleon Nikolaus Otto Paul Peter Philipp Pius Ramses Richard Rudolf "
    "Sixtus Urban Wilhelm Adolf Ernst"
).split()
QUEENS: Final = "Elisabeth Elizabeth Katharina Kleopatra Margarethe Maria Christina".split()
