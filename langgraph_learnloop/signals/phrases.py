"""Tell from words alone that somebody objects to an answer, or that an agent gives up.

The phrases are of English, German, French, Spanish and Portuguese. `benchmarks/signals.py` counts what they find and what
they take for it wrongly, on turns that were written by somebody who had not seen them.
"""

from __future__ import annotations

import re

_LONGEST = 600
"""Characters that are looked at: who objects, or gives up, says so early."""


def objects(text: str, answer: str) -> bool:
    """Return whether a user's message says that the answer before it was not right.

    A "no" after a question of the agent's answers it, and is no objection.
    """
    said = _plain(text)
    if _OBJECTS.search(said):
        return True
    return not _asks(answer) and _SAYS_NO.match(said) is not None and _POLITE_NO.match(said) is None


def gives_up(text: str) -> bool:
    """Return whether an agent's answer says that it cannot do, find or know what it was asked."""
    return _GIVES_UP.search(_plain(text)) is not None


def _plain(text: str) -> str:
    """Return the beginning of a text in lower case, on one line and with straight apostrophes."""
    return " ".join(text[:_LONGEST].casefold().replace("’", "'").replace("`", "'").split())


def _asks(answer: str) -> bool:
    """Return whether an answer ends with a question."""
    return answer.rstrip().rstrip("*_)]}\"'»” ").endswith(("?", "？"))


def _any(*phrases: str) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{phrase})" for phrase in phrases))


_SAYS_NO = _any(
    r"(?:(?:um+|uh+|hm+|er+|well|oh|ugh)\W+)?(?:no+|nope|nah|nah?h|wrong|incorrect)\b",
    r"(?:äh\W+|hm+\W+)?(?:nein|nee+|nö|falsch)\b",
    r"(?:euh\W+|ben\W+)?non\b",
    r"(?:eh\W+|pues\W+)?no\b",
    r"(?:hã\W+|ué\W+)?(?:não|nao|errado)\b",
)
_POLITE_NO = _any(
    r"no\W+(?:thank|thx|ty\b|problem|worries|need|rush|more\b|prob|biggie|that'?s (?:all|it|fine|ok|good))",
    r"(?:nope|nah)\W+(?:thank|that'?s (?:all|it|fine|ok|good)|i'?m good|all good)",
    r"(?:nein|nee|nö)\W+(?:danke|alles|das war|passt|schon gut)",
    r"non\W+(?:merci|c'est (?:bon|tout|parfait)|ça ira|rien)",
    r"no\W+(?:gracias|hace falta|pasa nada|te preocupes|hay problema|es necesario|nada más|eso es todo)",
    r"(?:não|nao)\W+(?:obrigad|precisa|tem problema|faz mal|é só|era só|se preocupe)",
)
_OBJECTS = _any(
    # English
    r"\b(?:that|this|it|which|your \w+)(?:'s| is| was|s| are|'re)? (?:still |just |clearly |simply |so |all |completely |totally )?(?:not|wrong|incorrect|false|nonsense|rubbish|outdated)\b",
    r"\b(?:that|this|it|they|your \w+) (?:isn'?t|wasn'?t|aren'?t|ain'?t|isnt|doesn'?t (?:add up|make sense|match|look right|answer|help|exist|work|include|have))\b",
    r"^(?:this|that|it|still) (?:doesn'?t|does not|didn'?t|did not|won'?t) \w+",
    r"\bnot (?:what|the \w+|where|who|when) i (?:asked|meant|want|need|said|was|am|ordered|looking)",
    r"\bi (?:never|didn'?t|did not) (?:ask|say|mean|said)\b",
    r"\bi (?:meant|mean the|mean my|said|asked (?:for|about|you|how|what|which|to)|already (?:told|said|did|tried|asked|gave)|(?:just )?told you|specifically)\b",
    r"\byou (?:\w+ )?(?:misunderst\w+|misread|misheard|forgot|forget|missed|left out|left off|skipped|ignored|mixed|dropped|messed|screwed|omitted|confused|made (?:that|it|this) up)\b",
    r"\byou(?:'re| are| were)? (?:still )?(?:wrong|mistaken|confus\w+|not (?:listening|answering|reading|getting|understanding))\b",
    r"\byou (?:didn'?t|did not|don'?t|haven'?t|never|only|just|keep|gave me|sent me|got the|got my|booked the wrong|picked|put the|used the) ",
    r"\b(?:still|again)\W+(?:wrong|not\b|no\b|doesn'?t|does not|isn'?t|won'?t|can'?t|the (?:same|old|wrong)|same|getting|nothing|broken|fails?|failing|shows?|says?)",
    r"^(?:\w+ )?(?:the )?same (?:error|thing|problem|issue|result|answer|mistake)",
    r"\b(?:are you (?:sure|serious|kidding)|(?:check|try|look|read|count|do) (?:\w+ ){0,3}again|double.?check|re-?read|read (?:my|the) (?:question|message|request))",
    r"\b(?:makes? no sense|useless|not helpful|unhelpful|wtf|bullshit|ridiculous|come on|seriously\?|that'?s? not|nonsense|did you even|can you even|what are you talking about|never asked)\b",
    r"\b(?:should(?:'ve| have)? (?:be|been|say|show|have|come|go)|shouldn'?t|supposed to be|it was \w+,? not|actually (?:it'?s|its|that'?s|no|the))\b",
    r"^(?:not |wait\W|hm+\W|but (?:i|that|it|the|my|you|there|what)|except|huh\W|what\?|um\W|actually)",
    r"\bnot \w+(?: \w+)?[,;.] (?:the |my |a )?\w+",
    r"\bwhat about (?:the (?:rest|other)|my other)|\bwhere(?:'?s| is| are) the (?:rest|other|link|file)",
    # German
    r"\b(?:das|es|die|der|dies|diese\w?)\b(?: \w+){0,2} (?:ist|war|sind|stimmt|stimmen|passt|funktioniert|geht|klappt|hilft|ergibt)(?: \w+){0,2} (?:nicht|falsch|kein\w*|doch|immer noch|quatsch|unsinn)\b",
    r"\b(?:stimmt (?:so |doch |gar )*nicht|falsch\b|so nicht|nicht (?:das|die|der|den), (?:was|was ich)|nicht, was|nicht gefragt|nicht gemeint|ich (?:meinte|meine|hab\w* (?:doch |schon |bereits )?(?:nach|gesagt|gefragt|geschrieben|gemeint|nicht))|habe ich nicht|hab ich doch|wollte (?:doch |eigentlich )?(?:nicht|den|die|das))\b",
    r"\bdu hast\b|\b(?:sie haben|hast du|haben sie) (?:\w+ ){0,3}(?:vergessen|falsch|nicht|übersehen|verwechselt|missverstanden)\b|\b(?:vergessen|übersehen|verwechselt|missverstanden)\b",
    r"\b(?:immer noch|schon wieder|wieder (?:nicht|falsch|das gleiche|dasselbe|der gleiche)|bist du sicher|sind sie sicher|sicher\?|nochmal (?:lesen|prüfen|nachsehen|schauen|versuchen)|lies (?:\w+ ){0,3}nochmal|quatsch|unsinn|blödsinn|hilft mir nicht|bringt nichts|(?:geht|funktioniert|klappt) (?:immer noch |trotzdem )?nicht)\b",
    r"^(?:nicht |moment|aber |doch\b|hä\b|sondern|eigentlich)",
    # French
    r"\bc'?(?:e|é)(?:st|tait) (?:\w+ ){0,2}(?:pas|faux|n'importe quoi|incorrect)\b|\bce n'?(?:est|était) pas\b|\b(?:ça|cela|ca) (?:ne )?(?:\w+ ){0,2}(?:marche|fonctionne|correspond|répond|va|aide|change)\w* (?:toujours )?(?:pas|rien)\b",
    r"\b(?:faux|erreur de|pas (?:ce que|celui|celle|ça|cela|du tout|le bon|la bonne|correct|bon)|je (?:voulais|parlais|parle|disais|pensais|t'ai (?:dit|demandé)|vous ai (?:dit|demandé)|n'ai (?:pas|jamais) (?:dit|demandé|parlé)|demandais)|j'ai (?:dit|demandé|bien dit|déjà)|j'avais (?:dit|demandé))\b",
    r"\b(?:tu|vous) (?:as|avez|t'es|vous êtes|n'as|n'avez|m'as|m'avez|te|vous)\b(?: \w+){0,3} (?:oublié|trompé\w*|mal|compris|pas|confond\w+|mélangé|ignoré|sauté|répondu|faux)\b|\b(?:oublié|trompé\w*|trompe\w*)\b",
    r"\b(?:toujours (?:pas|la même|le même|faux)|encore (?:faux|la même|le même|raté)|t'es sûr\w*|tu es sûr\w*|vous êtes sûr\w*|es-tu sûr|relis\w*|revérifi\w*|vérifi\w+ (?:encore|à nouveau)|n'importe quoi|sert à rien|n'a aucun sens|aucun rapport)\b",
    r"^(?:mais |pas |attends|attendez|si,|en fait|heu|hein)",
    # Spanish
    r"\b(?:eso|esto|esa|ese|así|la respuesta|el \w+) no (?:\w+ )?(?:es|era|está|son|funciona|sirve|coincide|cuadra|tiene|responde|me)\b|\bno (?:era|es) (?:eso|esa|ese|lo|el|la|correct|así|cierto|verdad)\w*|\bno (?:funciona|sirve|cuadra|coincide|me sirve|me ayuda|me has|me ha|has|ha entendido|entendiste|entendió|leíste|te pregunté|pregunté|pedí|te pedí|dije|quise)\b",
    r"\b(?:está (?:mal|equivocad\w+|incorrect\w+)|equivocad\w+|te equivoc\w+|incorrect\w+|me refería|me refiero|quise decir|quería decir|te (?:dije|pedí|pregunté)|he dicho|ya (?:te |lo |le )?(?:dije|probé|hice|intenté|he)|dije que|pedí|olvidaste|olvidó|te (?:falta|faltó|olvid\w+|has (?:olvidado|equivocado|dejado))|te saltaste|faltan? |confund\w+|otra vez (?:lo mismo|mal|el mismo|igual)|sigue (?:sin|igual|fallando|saliendo|mal|dando)|seguro\?|segura\?|estás segur\w+|está segur\w+|revisa (?:\w+ )?(?:otra vez|de nuevo|bien)|lee (?:bien|otra)|no tiene sentido|inútil|mentira|falso)\b",
    r"^(?:pero |espera|a ver,? no|sino|en realidad)",
    # Portuguese
    r"\b(?:isso|isto|essa|esse|assim|a resposta|o \w+) (?:não|nao) (?:\w+ )?(?:é|era|está|tá|funciona|serve|bate|confere|faz|tem|responde|foi|ajuda)\b|\b(?:não|nao) (?:era|é|foi) (?:isso|essa|esse|o que|a que|o|a|bem|verdade|assim)\b|\b(?:não|nao) (?:funciona|funcionou|serve|bate|confere|adianta|ajudou|entendeu|leu|perguntei|pedi|falei|disse|respondeu|faz sentido)\b",
    r"\b(?:está|tá|ta) errad\w+|\berrad[oa]\b|\b(?:eu quis dizer|quis dizer|eu disse|eu falei|eu pedi|eu perguntei|eu queria (?:o|a|dizer|saber do)|me referia|estava falando|já (?:te |lhe )?(?:disse|falei|tentei|fiz)|esqueceu|você (?:esqueceu|confundiu|errou|não|trocou|pulou|ignorou|só)|faltou|faltaram|confundiu|de novo (?:o mesmo|errado|não|a mesma)|continua (?:o mesmo|dando|errado|sem|igual|não)|ainda (?:não|está errado|dá|o mesmo)|tem certeza|certeza\?|leia (?:de novo|direito)|lê (?:de novo|direito)|confere de novo|verifica de novo|inútil|nada a ver|mentira)\b",
    r"^(?:mas |espera|peraí|pera|na verdade|ué)",
)
_GIVES_UP = _any(
    # English
    r"\b(?:i'?m|i am|we'?re|we are) (?:\w+ ){0,2}(?:unable|not able|not (?:\w+ )?(?:sure|certain|authori[sz]ed|permitted|allowed)|having trouble)\b",
    r"\bi (?:\w+ )?(?:can'?t|cannot|can not|couldn'?t|could not|wasn'?t able|was not able|was unable|am unable|don'?t (?:have|know|see|currently|actually)|do not (?:have|know|see|currently)|have no|lack|failed|didn'?t (?:find|manage)|did not (?:find|manage)|haven'?t been able|won'?t be able|ran into|encountered|hit (?:a|an) )",
    r"\b(?:something|it|that|this) (?:went wrong|is (?:outside|beyond)|(?:'s|is) not something i|seems? to have failed)",
    r"\b(?:error|problem|issue) (?:\w+ )?(?:occurred|on (?:my|our) (?:end|side))|\btry again (?:later|in a)|\bplease (?:contact|reach out|call|ask|check (?:with|directly))|\byou(?:'ll| will) (?:need|have) to (?:contact|call|ask|do|check|reach)|\bcontact (?:support|customer|your)",
    r"\bno (?:results?|matches|information|data|records?) (?:\w+ )?(?:found|available|for|about|on)\b|\bbeyond (?:my|what i)|\boutside (?:of )?(?:my|what i)",
    # German
    r"\b(?:ich|wir) (?:kann|konnte|können|konnten|habe|bin|weiß|finde|sehe|darf)\b(?: [\w,]+){0,6} (?:nicht|keine?n?|nichts|leider)\b|\b(?:leider|bedaure)\b(?: [\w,]+){0,4} (?:kann|konnte|ist|war|habe|hat|fehlt|weiß)\b(?: [\w,]+){0,3} (?:ich|mir|nicht|kein\w*|keinen|uns)\b|\bkann ich (?:\w+ ){0,4}(?:nicht|nichts|leider)\b|\b(?:schiefgelaufen|fehler (?:ist )?aufgetreten|wenden sie sich|wende dich|nicht möglich|kein(?:en)? zugriff|nicht in der lage|versuchen sie es (?:später|nochmal)|versuch es später)\b",
    # French
    r"\b(?:je|nous) (?:ne |n')(?:\w+ )?(?:peux|parviens|suis|dispose|sais|trouve|vois|pouvons|ai|arrive|connais)\b|\bje n'(?:ai|arrive)\b|\b(?:une erreur (?:est survenue|s'est produite)|contactez|veuillez contacter|adressez-vous|pas en mesure|m'est impossible|réessay\w+|aucun résultat|hors de (?:ma|mes))\b",
    # Spanish
    r"\bno (?:puedo|pude|he podido|podemos|tengo|dispongo|sé|encuentro|encontré|he encontrado|me es posible|logré|consigo|fue posible|ha sido posible|estoy segur\w+|cuento con|hay (?:resultados|información))\b|\b(?:ocurrió|hubo|se produjo|ha ocurrido) un (?:error|problema)|\b(?:contacta|contacte|póngase en contacto|ponte en contacto|comuníquese|algo (?:salió|ha salido|falló)|inténta?lo (?:más tarde|de nuevo))\b",
    # Portuguese
    r"\b(?:não|nao) (?:posso|consigo|consegui|pude|tenho|sei|encontrei|localizei|foi possível|é possível para|estou conseguindo|há (?:resultados|informações)|disponho)\b|\b(?:ocorreu|houve) um (?:erro|problema)|\b(?:entre em contato|contate|algo deu errado|tente (?:novamente|de novo|mais tarde)|fora do meu alcance)\b",
)
