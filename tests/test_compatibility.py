"""The table of what works with what says what is so."""

import compatibility
import pytest


@pytest.mark.nightly
def test_the_table_is_as_found():
    page = compatibility.PAGE.read_text()
    written = page.split(compatibility.BEGIN)[1].split(compatibility.END)[0]
    assert written.strip() == compatibility.table().strip()
