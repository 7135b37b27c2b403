"""What tests share: fixtures are in conftest.py, everything else is here."""
