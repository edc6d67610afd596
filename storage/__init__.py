# SPDX-License-Identifier: Apache-2.0
"""Postgres: how it is reached, how its schema grows, and one store per noun.

Owns every SQL statement of the project. Decides nothing: stores take and return frozen values, and what may be
written is the services' to know.
"""
