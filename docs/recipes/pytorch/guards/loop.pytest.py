# for (guard)
# needs torch, pytest
import sys

import pytest


class Fixtures:  # as in conftest.py
    @pytest.fixture
    def training(self):
        from test_frozen_norms import freeze_norms

        if FREEZE:
            freeze_norms(model)
        return model, optimizer, train


code = pytest.main(["-q", "test_frozen_norms.py"], plugins=[Fixtures()])
if code != 0:
    sys.exit(code)
