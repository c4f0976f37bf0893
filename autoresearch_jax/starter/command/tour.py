"""A round tour through all cities: always to a near city first, then made shorter by turning pieces of it around."""

import math

START = 0  # the city to begin with
PASSES = 1  # over all pairs of edges


def find_tour(cities):
    """The order in which to visit cities, which are pairs of numbers."""
    tour = nearest_first(cities)
    for _ in range(PASSES):
        turn_pieces(cities, tour)
    return tour


def nearest_first(cities):
    tour = [START % len(cities)]
    left = set(range(len(cities))) - set(tour)
    while left:
        here = cities[tour[-1]]
        tour.append(min(left, key=lambda city: math.dist(here, cities[city])))
        left.remove(tour[-1])
    return tour


def turn_pieces(cities, tour):
    """Turns a piece of the tour around wherever that makes it shorter; one pass."""
    for first in range(1, len(tour) - 1):
        for last in range(first + 1, len(tour)):
            before, after = tour[first - 1], tour[(last + 1) % len(tour)]
            now = math.dist(cities[before], cities[tour[first]]) + math.dist(cities[tour[last]], cities[after])
            then = math.dist(cities[before], cities[tour[last]]) + math.dist(cities[tour[first]], cities[after])
            if then < now:
                tour[first : last + 1] = reversed(tour[first : last + 1])
