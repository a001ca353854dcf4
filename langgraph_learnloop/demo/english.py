"""Everyday English words: a base model that is made from somebody's file knows them besides the words of the file.

Light, unlike the module that trains it: the folder of such a base is named before anything is trained.
"""

from __future__ import annotations

from typing import Any

_TIME = """
    now today tonight tomorrow yesterday morning noon afternoon evening night midnight day week month year hour minute
    second early late soon later before after during until since always never often once twice again last next first
    spring summer autumn fall winter january february march april may june july august september october november
    december monday tuesday wednesday thursday friday saturday sunday weekend date time clock calendar schedule times
    start starts begin begins end ends finish current currently recent latest new old century decade season holiday
"""
_PLACES = """
    here there where near nearby nearest close closest far away around inside outside above below between across next
    home house room kitchen garden street road city town village country state world map place area neighborhood
    neighbourhood corner center centre north south east west station airport hotel shop store market bank school
    church hospital library museum park beach bridge river lake mountain island office building theatre theater
    theatres theaters cinema cinemas hall club bar cafe restaurant location local distance spatial relation
"""
_PEOPLE = """
    i me my mine you your he him his she her it its we us our they them their who whose everyone somebody nobody
    man men woman women child children boy girl friend family mother father parent brother sister son daughter baby
    husband wife people person guest group party team player doctor teacher student writer author artist singer
    actor director owner name user
"""
_THINGS = """
    book books novel novels textbook story stories chapter page series part saga chronicle essay poem letter paper
    newspaper magazine article text word sentence title picture photo painting image song songs music album track
    playlist tune sound voice radio television video movie movies film films show shows screen screening scene
    trailer program programme channel game games event ticket seat food bread meat fish soup rice egg fruit apple
    cake coffee tea water wine beer milk meal breakfast lunch dinner menu table chair door window bed lamp car bus
    train plane boat bike phone computer message mail list note plan idea problem question answer reason result
    object item type kind sort thing value values number amount unit units size weight price cost money point points
    star stars rating ratings rate rated score best worst grade level percent half quarter out zero one two three four
    five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty
    thirty forty fifty sixty seventy eighty ninety hundred thousand
"""
_DOING = """
    be am is are was were been do does did done have has had can could will would shall should must let make makes
    made get gets got give gives gave take takes took put puts find finds found look looks see sees saw seen watch
    watching hear listen play plays playing played showing shown show start stop open close turn go goes going went
    come comes came bring send sent keep hold show tell tells told say says said ask asks speak talk call called
    know think want wants need needs like likes love hate hope wish try use used work help please thank buy sell pay
    book order reserve eat drink cook read reads reading write wrote written select choose pick add remove change
    move set mark count check search meet visit stay leave live sleep walk run drive fly swim sing dance win lose
"""
_HOW = """
    a an the this that these those some any all both each every either other another such same different and or but
    if then because so than as at by for from in into of off on over to under up down with without about against
    through no not yes very much many more most less least few little lot only just also too even still yet already
    almost enough quite really maybe perhaps good better great nice fine bad poor big small large tiny long short
    tall high low wide deep full empty heavy light hard easy soft strong weak fast slow quick hot warm cool cold wet
    dry clean dirty bright dark loud quiet young rich cheap free busy ready right wrong true false left real whole
    happy sad funny angry afraid sorry sure kind famous popular favorite animated black white red green blue yellow
    brown gray
"""
ENGLISH = tuple(dict.fromkeys(" ".join((_TIME, _PLACES, _PEOPLE, _THINGS, _DOING, _HOW)).split()))
"""The words, each once."""
BASE: dict[str, Any] = {"vocabulary": 4000, "steps": 1100}
"""What differs in the recipe of such a base from that of the shipped one: tokens, and optimiser steps."""
