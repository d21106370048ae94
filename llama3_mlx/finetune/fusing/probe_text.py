"""Text to measure a fused model on where the adapter's own data are not at hand; written for this project."""

TEXT = """\
The ferry leaves at six in the morning, an hour before the bakery opens, so the crew bring their own bread. On a clear
day the island can be seen from the harbour wall: two hills, a white chapel between them, and the mast of the radio
station. Marta has made the crossing every week for eleven years. She carries the post, a crate of medicine when the
doctor asks for it, and in spring the seedlings that the school grows in its greenhouse.

Q: How long does the crossing take?
A: About fifty minutes, if the wind is not from the north.

To make the soup, chop two onions and a stick of celery, and soften them in butter for ten minutes. Add 400 g of
potatoes, a litre of stock and a bay leaf. Simmer until the potatoes fall apart, take out the leaf, and blend.

def mean(values):
    if not values:
        raise ValueError("no values")
    return sum(values) / len(values)

{"name": "Ana Lund", "born": 1987, "city": "Porto", "languages": ["pt", "da", "en"], "active": true}

The train that left Turin at 9:40 was 25 minutes late in Milan, where 60 people changed for Venice. If each of them had
paid 19 euros, the railway would owe them back a quarter of 1,140 euros, which is 285 euros in all.

Water expands when it freezes, which is why ice floats and pipes burst. Most other liquids do the opposite: their solid
form is denser and sinks. Because ice floats, lakes freeze from the top, and fish survive the winter beneath it.
"""
