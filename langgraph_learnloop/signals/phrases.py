"""Tell from words alone that somebody objects to an answer, or that an agent gives up.

The phrases are of English, German, French, Spanish and Portuguese, and rather miss something than take what is harmless
for a complaint. `benchmarks/signals.py` counts both, on turns written by somebody who had not seen the phrases.
"""

from __future__ import annotations

import re

_LONGEST = 300
"""Characters that are looked at: who objects, or gives up, says so early."""
_APOSTROPHES = str.maketrans("\u2019\u02bc`", "'''")
_QUESTION_MARKS = ("?", "\uff1f")
_CLOSERS = "*_)]}\"'\u00bb\u201d \u200b"
"""What may stand after the last question mark."""


def objects(text: str, answer: str) -> bool:
    """Return whether a user's message says that the answer before it was not right.

    A "no" after a question of the agent's answers it, and is no objection.
    """
    said, before = _plain(text), _plain(answer[-_LONGEST:])
    if _OBJECTS.search(said):
        return True
    if answer.rstrip().rstrip(_CLOSERS).endswith(_QUESTION_MARKS):
        return False
    return _says_no(said) or _repeats_to_refuse(said, before)


def gives_up(text: str) -> bool:
    """Return whether an agent's answer says that it cannot do, find or know what it was asked."""
    return _GIVES_UP.search(_QUOTED.sub(" ", _plain(text))) is not None


def _plain(text: str) -> str:
    """Return the beginning of a text in lower case, on one line and with straight apostrophes."""
    return " ".join(text[:_LONGEST].casefold().translate(_APOSTROPHES).split())


def _says_no(said: str) -> bool:
    return _NO.match(said) is not None and _POLITE.match(said) is None


def _repeats_to_refuse(said: str, answer: str) -> bool:
    """Return whether somebody asks back what was answered ("calendar?? shopping list"), or says "not" before it."""
    there = set(_WORD.findall(answer))
    echo = _ECHO.match(said)
    if echo is not None and set(_WORD.findall(echo[1])) & there:
        return True
    return any(word in there and len(word) > 1 for word in _REFUSED.findall(said))


def _any(*, starts: tuple[str, ...], words: tuple[str, ...] = ()) -> re.Pattern[str]:
    """Return a pattern of phrases that a text begins with, and of those that begin with any of its words.

    Where a word begins is looked for once and not for each phrase, which makes it three times as fast.
    """
    parts = [f"^(?:{'|'.join(starts)})", *([rf"\b(?:{'|'.join(words)})"] if words else [])]
    return re.compile("|".join(parts))


_WORD = re.compile(r"[^\W_]+")
_QUOTED = re.compile(
    r"\"[^\"]*\"|\u201c[^\u201d]*\u201d|\u201e[^\u201c]*\u201c|\u00ab[^\u00bb]*\u00bb|\u00ab[^\u00bb]*$"
)
"""What an agent quotes, or drafts for the user, it does not say itself."""
_ECHO = re.compile(r"((?:an? |the |in |de la |de |el |la |le |les |der |die |das |os? )?[^\W_]+)\s*\?+\s*[^\W_]")
_REFUSED = re.compile(
    r"\b(?:not|isn't|isnt|aren't|don't want|nicht|kein\w*|pas|não|nao)"
    r" (?:the |an? |my |at |in |on |to |der |die |das |den |am |im |le |la |les |du |de |une? |o |a |os |as )?([^\W_]+)"
)
_NO = _any(
    starts=(
        r"(?:um+\W+|uh+\W+|oh\W+|well\W+|ugh\W+|wtf\W+|wait\W+|sorry\W+)?(?:nope|nah|wrong|incorrect|"
        r"no+(?:\W*$|\W*[,.;:!?\u2026-]| (?:i|it|its|that|thats|this|you|u|not|the|my|we|he|she|they|just|wrong)\b))",
        r"(?:ähm?\W+|ach\W+|oh\W+)?(?:nein|nee|nö|falsch\w*)\b",
        r"(?:euh\W+|ben\W+|mais\W+|ah\W+)?(?:non|faux)\b",
        r"(?:eh\W+|pues\W+|que\W+)?no(?:\W*$|\W*[,.;:!?\u2026-])",
        r"(?:ãh?\W+|ué\W+|opa\W+)?(?:errad\w+|(?:não|nao)(?:\W*$|\W*[,.;:!?\u2026-]))",
    ),
)
"""A "no" that stands by itself: "no puedo entrar" and "no payments" are about something else."""
_POLITE = _any(
    starts=(
        r"no+(?: no)*\W+(?:th?a?nk|thx|ty\b|prob|worries|need|rush|more\b|biggie|way\b|idea|clue|one\b|that'?s (?:all|"
        r"it|fine|ok|good|great))",
        r"(?:nope|nah|no)\W+(?:that's|thats|it's|i'm|im|all|we're|just|you're)?\W*(?:all|it|fine|ok|okay|good|great|"
        r"perfect|set)\b",
        r"(?:nein|nee?|nö)\W+(?:danke|alles|das war|passt|schon gut|reicht|mehr)",
        r"non\W+(?:merci|c'est (?:bon|tout|parfait)|ça ira|rien|plus)",
        r"no\W+(?:gracias|hace falta|pasa nada|te preocupes|hay (?:problema|prisa)|es necesario|nada|eso es todo|sé|"
        r"tengo|quiero|puedo|me )",
        r"(?:não|nao)\W+(?:obrigad|precisa|tem problema|faz mal|é só|era só|se preocupe|sei|tenho|quero|posso)",
    ),
)
_OBJECTS = _any(
    starts=(
        r"(?:\w+ )?(?:the )?(?:exact )?same (?:error|thing|problem|issue|result|answer|mistake|exception)",
        r"(?:the )?wrong \w+",
        r"falsche\w* ",
        r"(?:\w+ )?errad[oa]",
    ),
    words=(
        # English
        r"(?:that|this|it)(?:'s|s| is| was) (?:(?:still|just|clearly|simply|so|all|completely|totally|really|"
        r"even) )?(?:not (?:right|correct|true|it\b|what|the (?:right|one)|how|my\b|even)|wrong|incorrect|nonsense|"
        r"rubbish|last (?:year|month|week)|the (?:wrong|old|other) )",
        r"(?:that|this|it) (?:still )?(?:isn't|isnt|wasn't|wasnt|can't be|cant be) (?:right|correct|true|it\b|what i|"
        r"the one i)",
        r"not (?:really |quite |exactly )?(?:what|the \w+|where|who|when|how) i (?:asked|meant|want|need|said|was|am|"
        r"ordered)",
        r"(?:i|we) (?:never|didn't|didnt|did not) (?:ask|say|said|mean)",
        r"i (?:meant|said|specifically|clearly|already (?:told|said|did|tried|asked|gave))\b",
        r"i (?:just )?told (?:you|u)\b",
        r"(?:like|as) i (?:said|asked|wrote|told|mentioned)",
        r"(?:was|am) asking (?:about|for|whether|if)\b",
        r"(?:you|u) (?:\w+ )?(?:misunderst\w+|misread|misheard|forgot|missed|left out|left off|skipped|ignored|mixed|"
        r"messed|screwed|omitted|swapped|confused|made (?:that|it|this) up|got (?:it|that|the \w+) wrong)\b",
        r"(?:you|u) (?:clearly |still )?(?:didn't|didnt|did not|don't|haven't|havent|never) (?:\w+ )?(?:answer|read|"
        r"listen|understand|understood|get|got|include|mention|check|do|did|even|change)",
        r"you(?:'re| are) (?:\w+ )?(?:wrong|mistaken|confus\w+|not (?:listening|answering|reading|getting|"
        r"understanding))",
        r"(?:still|again) (?:wrong|not\b|no\b|doesn't|doesnt|isn't|isnt|won't|can't|the (?:same|old|wrong)|on\b|off\b|"
        r"there\b)",
        r"(?:the|to) wrong (?:one|person|file|account|date|city|address|order|number|time|year)\b",
        r"are you (?:sure|serious|kidding)",
        r"(?:check|try|look|read|count|redo|do) (?:it |that |this |my \w+ )?again\b",
        r"read (?:my|the) (?:question|message|request)",
        r"(?:double|re).?(?:check|read)\b",
        r"(?:makes? no sense|useless|not helpful|unhelpful|isn't helpful|doesn't (?:help|answer|add up|make sense)|"
        r"wtf|bullshit)",
        r"should(?:'ve| have)? (?:be|been|say|show) .*\bnot\b",
        r"(?:two|three|one|\d+) (?:\w+ )?(?:off|too (?:many|few|far|short|late))\b",
        # German
        r"(?:das|es|dies\w*) (?:\w+ )?(?:ist|war|stimmt|passt|kann) (?:\w+ ){0,2}(?:falsch|nicht (?:richtig|das|was|"
        r"korrekt|sein|wahr))",
        r"stimmt (?:so |doch |gar |aber |leider )*nicht",
        r"nicht (?:das|die|der|den),? (?:was|wonach|die|den) ich",
        r"nicht gefragt",
        r"ich (?:meinte|mein(?:e)? (?:natürlich|doch|den|die|das))",
        r"meinte ich",
        r"hab(?:e)? ich (?:doch |dir |ihnen )?(?:gesagt|geschrieben|schon)",
        r"ich hab(?:e|'s)? (?:doch |ja |dir |ihnen |schon )*(?:gesagt|geschrieben|nach|gefragt)",
        r"wie (?:gesagt|geschrieben)\b",
        r"(?:hast du|du hast|sie haben|haben sie) (?:\w+ ){0,4}(?:vergessen|übersehen|verwechselt|missverstanden|"
        r"falsch|vertauscht|ignoriert)",
        r"(?:immer noch|schon wieder|weiterhin) (?:nicht|falsch|das gleiche|dasselbe|der gleiche|die gleiche|kein)",
        r"bist du sicher",
        r"sind sie sicher",
        r"(?:dieselbe|dasselbe|die gleiche|der gleiche) (?:meldung|fehler|problem)",
        r"(?:schau|lies|prüf\w*|sieh|versuch\w*) (?:\w+ )?(?:nochmal|noch mal|noch einmal)",
        r"beantwortet (?:\w+ )?meine frage",
        r"hilft (?:mir )?(?:\w+ )?(?:nicht|nix|nichts)",
        r"(?:quatsch|unsinn|blödsinn|zahlendreher)\b",
        # French
        r"(?:c'est|c'était|cest|c'est \w+) (?:faux|pas (?:ça|ca|ce que|le bon|la bonne|bon|correct|juste|normal)|"
        r"le mauvais|la mauvaise|n'importe quoi)",
        r"ce n'est pas",
        r"pas (?:ce que|celui|celle) (?:que )?(?:j|je)",
        r"je (?:parlais|voulais (?:dire|parler)|disais|demandais|n'ai (?:pas|jamais) (?:dit|demand))",
        r"j'(?:ai|avais) (?:bien |déjà )?(?:dit|demandé|précisé|écrit)",
        r"je (?:t'|vous )(?:ai|avais) (?:dit|demandé)",
        r"je viens de (?:le |l'|te )?(?:dire|écrire)",
        r"(?:tu|vous|t) (?:\w+ )?(?:as|avez|'as|es|êtes) (?:\w+ ){0,2}(?:oublié|trompé\w*|inversé|confondu|mélangé|"
        r"ignoré|mal (?:lu|compris)|pas (?:répondu|compris|lu|fait))",
        r"(?:toujours (?:pas|la même|le même|autant)|encore (?:faux|la même|le même|raté)|(?:tu es|t'es|"
        r"vous êtes) (?:sûr|certain)\w*|relis\w*|mauvaise? \w+|rien à voir|sert à rien|n'importe quoi)\b",
        # Spanish
        r"(?:eso|esto|esa?|así) no (?:\w+ )?(?:es|era|está|son|sirve|cuadra|coincide|responde)",
        r"no (?:era|es) (?:eso|es[ea]|lo que|el que|la que|correct|así|cierto)",
        r"(?:está mal|equivoca\w+|incorrect[oa]|me refería|me refiero a|quise decir|quería decir|yo (?:dije|digo|"
        r"pedí)|dije (?:que|el|la|los)|te (?:dije|pedí|pregunté|lo puse)|ya (?:te )?lo dije)\b",
        r"(?:te (?:olvida\w+|has (?:olvidado|equivocado|dejado|saltado)|falt\w+)|olvidaste|confundi\w+|no (?:me has|"
        r"has|me ha) (?:entendido|respondido|contestado|leído)|no (?:entendiste|respondiste|te pregunt|te ped))",
        r"sigue (?:sin|igual|fallando|saliendo|mal|dando|encendid|apagad|el mismo)",
        r"otra vez (?:lo mismo|mal|el mismo|la misma)",
        r"(?:estás?) segur[oa]\b",
        r"no tiene sentido",
        r"revisa\w* (?:otra vez|de nuevo|bien)",
        # Portuguese
        r"(?:isso|essa?|assim) (?:não|nao) (?:\w+ )?(?:é|era|está|tá|serve|bate|confere|faz|responde|ajuda)",
        r"(?:não|nao) (?:era|é|foi) (?:isso|ess[ea]|o que (?:eu )?(?:ped|pergunt|quer|diss))",
        r"(?:tá|está|ta) errad\w+",
        r"(?:quis dizer|eu (?:disse|falei|pedi|perguntei|havia perguntado)|falei \w+|como eu (?:disse|falei|pedi)|"
        r"me referia|já (?:te )?(?:disse|falei))\b",
        r"(?:você|vc|o senhor|a senhora)? ?(?:esqueceu|confundiu|errou|trocou|pulou|ignorou|não (?:entendeu|leu|"
        r"respondeu))",
        r"de novo (?:o mesmo|errado|a mesma)",
        r"continua (?:o mesmo|a mesma|dando|errad|sem|igual|aces|apagad|em)",
        r"ainda (?:não (?:funciona|foi|está)|está errad|o mesmo)",
        r"tem certeza",
        r"leia (?:de novo|direito)",
        r"nada a ver\b",
        r"(?:confere|verifica|olha) (?:\w+ )?de novo",
    ),
)
_GIVES_UP = _any(
    starts=(r"impossible de",),
    words=(
        # English
        r"(?:i'm|i am|we're|i was|i've been) (?:\w+ ){0,2}(?:unable|not able|not (?:\w+ )?(?:sure|certain|"
        r"authori[sz]ed|permitted|allowed))\b",
        r"i (?:\w+ ){0,2}?(?:can't|cannot|can not|couldn't|could not|wasn't able|was not able|won't be able)\b",
        r"i (?:\w+ ){0,2}?(?:don't|do not) (?:\w+ )?(?:have|know|recognise|recognize|support)\b",
        r"i have no (?:\w+ ){0,2}(?:access|tool|way|information|idea|record)",
        r"(?:i|we) (?:found|came across|got) (?:no|nothing)\b",
        r"i (?:keep|kept) getting",
        r"i (?:ran into|encountered|hit) (?:an?|some)\b",
        r"i've reached the maximum",
        r"something went wrong",
        r"(?:error|problem) (?:\w+ )?(?:occurred|on (?:my|our) (?:end|side))",
        r"nothing (?:came back|i can)",
        r"no idea\b",
        r"(?:isn't|aren't|is not|are not|not) (?:\w+ )?(?:supported|available|possible|something (?:i|visible)|"
        r"among my)\b.{0,40}\b(?:me|here|chat|assistant|have|capabilities|i)\b",
        r"(?:isn't|is not|aren't|are not) (?:responding|supported|available through)",
        r"did not respond",
        r"(?:couldn't|could not|can't|cannot) be (?:set|done|displayed|found|loaded|completed|reached|opened|"
        r"processed|retrieved)",
        r"(?:hand|pass|transfer|connect) you (?:over )?to",
        r"(?:outside|beyond) (?:of )?(?:my|what i)",
        # German
        r"(?:ich|wir) (?:kann|konnte|können|konnten|darf|habe?|finde|sehe|weiss|bin)(?: [\w,]+){0,5} (?:nicht|kein\w*|"
        r"nichts)\b",
        r"(?:kann|konnte|darf|habe|weiss|komme) ich (?:\w+ ){0,4}(?:nicht|kein\w*|nichts)\b",
        r"liegen mir (?:\w+ ){0,2}kein",
        r"(?:etwas|da|leider) (?:\w+ ){0,2}schiefgelaufen",
        r"fehler (?:ist )?aufgetreten",
        r"(?:ohne ergebnis|nicht geklappt|nicht in der lage|keinen zugriff)\b",
        # French
        r"je (?:ne |n')(?:\w+ )?(?:peux|parviens|suis|dispose|sais|trouve|vois|arrive|connais|ai)(?: \w+){0,3} (?:pas|"
        r"aucun\w*|plus)\b",
        r"j'ignore\b",
        r"(?:une erreur (?:est survenue|s'est produite)|pas en mesure|m'est impossible|aucun résultat|rien donné|"
        r"a échoué|hors de (?:ma|mes)|fait pas partie de mes)\b",
        r"aucune? \w+(?: \w+)? (?:n'a|ne) ",
        # Spanish
        r"no (?:puedo|pude|he podido|dispongo|encuentro|encontré|he encontrado|logré|consigo|me es posible|"
        r"fue posible|ha sido posible|sé|sabría|cuento con|tengo (?:acceso|información|ninguna|manera|forma|"
        r"permiso))\b",
        r"(?:ocurrió|hubo|se produjo|ha ocurrido) un (?:error|problema)",
        r"(?:algo (?:salió|ha salido|falló)|me resulta imposible|no está entre mis|ni idea|le paso con)\b",
        # Portuguese
        r"(?:não|nao) (?:posso|consigo|consegui|pude|sei|encontrei|achei|localizei|foi possível|tenho (?:acesso|como|"
        r"informações|permissão))\b",
        r"(?:ocorreu|houve) um (?:erro|problema)",
        r"(?:algo deu errado|fora do meu alcance|não (?:são|é) possíve\w+ por aqui|não é algo que eu)\b",
    ),
)
