import base64
import io
import re

import numpy as np
import pandas as pd
from PIL import Image

from d2ue.plotting.webpage import render

EVIL = "</td><script>alert(1)</script>.png"


def audit_page(**data):
    """The audit's page with one picture and one row in every table."""
    image = np.arange(12, dtype=np.uint8).reshape(3, 4)
    rows = [(EVIL, 1.23456789, 7)]
    pages = {
        "name": EVIL,
        "parts": rows,
        "pairs": rows,
        "shown": [{"caption": EVIL, "pictures": [(image, f'"{EVIL}')]}],
        "properties": pd.DataFrame(rows).itertuples(index=False),
        "text": [EVIL],
    }
    return render("audit/report.html.j2", **pages | data), image


def test_a_picture_carries_its_own_pixels():
    page, image = audit_page()
    data = re.search(r'src="data:image/png;base64,([^"]+)"', page).group(1)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))), image)


def test_what_files_are_called_cannot_become_part_of_the_page():
    page, _ = audit_page()
    assert "<script" not in page and 'alt=""' not in page
    # title and heading, three tables, alternative text, caption, text
    assert page.count("&lt;script&gt;") == 8


def test_numbers_stand_to_the_right_and_are_rounded():
    page, _ = audit_page()
    assert page.count('<td class="number">1.235</td><td class="number">7</td>') == 3
