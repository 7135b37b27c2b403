"""Tests of the laboratory, aru_lab."""
