import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
from PIL import Image

from d2ue.plotting import webpage


def test_a_picture_carries_its_own_pixels():
    image = np.arange(12, dtype=np.uint8).reshape(3, 4)
    element = webpage.picture(image, 'scan "7" <a>', width=99)
    data = re.search(r'src="data:image/png;base64,([^"]+)"', element).group(1)
    found = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
    assert np.array_equal(found, image)
    assert 'width="99"' in element and "scan &quot;7&quot; &lt;a&gt;" in element


def test_what_files_are_called_cannot_become_part_of_the_page():
    evil = "</td><script>alert(1)</script>.png"
    parts = [
        webpage.heading(evil),
        webpage.paragraph(evil),
        webpage.figure([], evil),
        webpage.table([evil], [[evil]]),
    ]
    text = webpage.page(evil, parts)
    tags = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attributes: tags.append(tag)
    parser.feed(text)
    assert "script" not in tags
    assert text.count("&lt;script&gt;") == 7  # title, h1, h2, p, figcaption, th, td


def test_numbers_stand_to_the_right_and_are_rounded():
    text = webpage.table(["name", "score"], [["a", 1.23456789], ["b", 7]])
    assert '<td class="number">1.235</td>' in text and '<td class="number">7</td>' in text
    assert "<td>a</td>" in text
    assert webpage.gallery(["x", "y"]) == '<div class="gallery">xy</div>'
