import numpy as np

from d2ue.plotting.webpage import render

EVIL = "</td><script>alert(1)</script>.png"


def audit_page():
    """The audit's page with one picture and one row in every table."""
    image = np.zeros((3, 4), np.uint8)
    rows = [(EVIL, 1.23456789, 7)]
    return render(
        "audit/report.html.j2",
        name=EVIL,
        parts=rows,
        pairs=rows,
        shown=[{"caption": EVIL, "pictures": [(image, f'"{EVIL}')]}],
        properties=rows,
        text=[EVIL],
    )


def test_what_files_are_called_cannot_become_part_of_the_page():
    page = audit_page()
    assert "<script" not in page and 'alt=""' not in page
    # title and heading, three tables, alternative text, caption, text
    assert page.count("&lt;script&gt;") == 8


def test_numbers_stand_to_the_right_and_are_rounded():
    page = audit_page()
    assert page.count('<td class="number">1.235</td><td class="number">7</td>') == 3
