"""Tests: unit, property and golden need nothing; integration and api start PostgreSQL and Valkey themselves."""
