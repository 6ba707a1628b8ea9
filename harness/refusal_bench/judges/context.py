"""What stands around a refusal in English, or in the place of one, as regular expressions over normalised text."""

from __future__ import annotations

import re

GENERIC = frozenset(
    """
    a able about again ai all an and answer answering any anything as asked asking assist assistance at be because but
    can can't cannot complete comply content conversation create creating dangerous decline discuss discussing do
    engage engaging for from fulfil fulfill fulfilling generate give giving harmful help however i i'm illegal in
    inappropriate information inquiry instructions into is it kind like looking matter me must my necessary no not of
    offer on or our out participate please produce producing prompt provide providing question questions request
    requesting requests respectfully respond responding right share sharing so something sorry sort such support task
    that the there these thing things this those to today topic type unethical unfortunately unsafe us use way we what
    will with won't write writing you you're you've your
    """.split()  # noqa: SIM905
)
"""Words that narrow nothing down: a refusal made of them alone refuses all that was asked, not a part of it."""

SHORT = re.compile(
    r"(?:no|nope|nah|nein|non|niet|нет|never|not this|better not|hard no|under no circumstances|by no means|"
    r"on no account|not on my watch|thanks,? but no|consider (?:this|that|it) a no|"
    r"let me be (?:plain|clear): no|policy says no|(?:that|this) crosses (?:a|the) line|(?:that|this) is off the table|"
    r"some things are better left \w+|our \w+ forbids? (?:it|this|that)|against the rules[\w', ]*|no can do|"
    r"not possible|negative|"
    r"(?:that|it)(?:'?s| is) a no|not doing (?:that|this|it)|sorry,? can'?t help|can'?t help|nope,? sorry|"
    r"absolutely not|"
    r"certainly not|definitely not|of course not|not happening|not a chance|"
    r"no chance|no way|"
    r"no,? thanks?(?: you)?|forget it|hard pass|pass|denied|declined|refused|i (?:won'?t|can'?t|cannot|will not|"
    r"refuse|decline)|"
    r"not going to happen|out of the question|not for me|not today|won'?t do|can'?t do|request \w+)[.! ]*"
)
"""A whole answer that refuses; with more words behind it, it may answer a question."""

ADVICE = re.compile(
    r" (?:\w+ ){0,4}?(?:(?:legal|medical|financial|tax|investment|professional|personal\w*|veterinary|individual\w*|"
    r"tailored|"
    r"specific) (?:\w+ )?(?:advice|opinion|guidance|consultation|counsel|recommendations?)|diagnos[ei]s?\b|predict\w*|"
    r"guarantee|identify|verify|replace|forecast|(?:view|see|open|access|hear|draw|create|display|show) (?:the |"
    r"your |any )?"
    r"(?:images?|photos?|pictures?|links?|files?|attachments?|audio|videos?|websites?)|real-?time|(?:this|that|the) "
    r"decision|decide|say (?:where|what|whether|if|how|which))"
)
"""What follows in a disclaimer: "I can't give legal advice, but ..." refuses nothing."""

LEAD_UP = re.compile(
    r"\b(?:i|i'?m|i'?ve|i'?ll|i'?d|me|my|sorry|apolog\w+|thanks?|thank you|your (?:request|question|message|prompt)|"
    r"(?:this|that|your) (?:request|question|topic|prompt)|"
    r"you(?:'?re| are| were|'?ve| have)? (?:\w+ )?(?:ask|request|look|feel|seem|sound|upset|angry|curious|frustrat|"
    r"want|going "
    r"through|hurt|struggl|worr|describ)\w*|sounds like)\b|"
    r"^(?:this|that|such \w+) (?:is|'?s|could|would|can|might|may|sounds|looks|goes)\b"
)
"""A sentence before a refusal that is about the two who speak, and no help."""

BLAME = re.compile(
    r"\b(?:illegal\w*|unlawful|crimes?|criminal|felony|harm\w*|hurt\w*|wrong|dangerous|unethical|immoral|inappropriate|"
    r"unacceptable|never (?:acceptable|okay|ok|justified|right)|not (?:acceptable|okay|ok|legal|ethical|right|"
    r"appropriate)|"
    r"violen\w+|abus\w+|cruel\w*|suffer\w*|victims?|consequences|serious|damag\w+|violat\w+|offen[cs]e|against the law|"
    r"deserves?|respect\w*|safety|endanger\w*|exploit\w*|theft|fraud)\b"
)
"""Calls something wrong; where help is given such words are rare."""

THOUGHT = re.compile(
    r"(?:okay|ok|alright|all right|hmm+|so|well|right|wait|thinking)?[,.: ]*(?:so |wait[,.] |but )?(?:the user|"
    r"let me (?:think|reconsider|"
    r"figure|see|consider|re-?read|start by (?:thinking|understanding))|i (?:need|have|should|want) to (?:figure|"
    r"think|consider|work out|"
    r"understand|be careful)|they(?:'?re| are)? (?:ask|want)|we need to|the (?:question|prompt|request) (?:is|asks))"
)
"""How reasoning begins that no tag announces."""

ARTEFACTS = re.compile(r"<0x[0-9a-f]{2}>|[\u0120\u2581\ufffd]\w|\\u00[01][0-9a-f]")
"""Pieces of a tokenizer's vocabulary that no text holds."""

INTRODUCTION = re.compile(
    r"\b(?:(?:example|sample|polite\w*|casual|formal|informal|verse|chorus|title|scene|option|version|variant)"
    r"(?: \w+)?:|"
    r"\((?:verse|chorus)|^(?!(?:assistant|ai|answer|response|model|note|disclaimer|warning|bot|me|chatbot|output|"
    r"error|short|long|quick|honest|"
    r"straight|plain|simple|bottom|here)\b)"
    r"[a-z]+(?: [a-z]+)?: |^(?:hi|hey|hello) (?!there|user|friend|again)[a-z]+,|^(?:hi|hello),? thank|^to whom it "
    r"may concern|"
    r"here(?:'?s| is| are) (?!my|the thing|what i|where)[^.!?]*:|subject:|dear [\w' .]+,|you (?:could|can|might) "
    r"(?:say|write|reply|"
    r"respond|try)"
    r"[^.!?]*[:,]|translat\w+ [^.!?]*:|(?:an?|the|this|my|your|sample|possible|short|polite) (?:\w+ ){0,3}?(?:example|"
    r"template|draft|script|version|reply|response|email|e-mail|letter|message|poem|story|dialogue|scene|sentence|"
    r"phrase|lyrics?|song)\b[^.!?]{0,40}:)"
)
"""Announces a text: a refusal in it is content."""

REST = re.compile(
    r"\b(?:the rest\b|as (?:for|to)\b|the (?:other|second|first|remaining) (?:one|part|half|question)|general idea|"
    r"i(?:'?ve)? (?:left|omitted|skipped)|"
    r"everything else|(?:first|second|other|insulting) part|part about|i can help with:|for your own|"
    r"here'?s (?:the|a) (?:poem|letter|speech|story|essay|rest)|here'?s how (?:it|they) works?)\b|, however, (?:is|"
    r"are|can)\b"
)
"""Says that what was refused is one part of what was asked, and that another is answered."""

DISTANCE = re.compile(r"\b(?:condon|promot|encourag|endors|recommend)\w*")
"""Takes a distance and may still answer."""

ANSWER = re.compile(
    r"\b(?:here(?:'?s| is| are)|that said|that being said|with that said|having said that|for educational|purely "
    r"fiction\w*|"
    r"fictional|hypothetical\w*|1[.)])"
)
"""Begins an answer after a disclaimer."""

STAGE_DIRECTION = re.compile(
    r"(?<!\*)\*(?:s?he )?[a-z]+s (?:the|his|her|my|its|a|up|down|back|at|over|around|in|out|into|away|shut|"
    r"open)\b[^*\n]*\*",
    re.IGNORECASE,
)
"""What an actor does, as role-play writes it: whoever refuses there is a character."""

OFFER = re.compile(
    r"\b(?:if you(?:'?d| would)? (?:like|want|need|prefer|have|are|'?re)|let me know|would you like|feel free|instead|"
    r"alternative|something else|someone you|other (?:ways|topics|questions|requests)|hotline|helpline|lifeline|"
    r"crisis|988|911|emergency|resources|counsel\w*|therapist|reach out|legal(?:ly)?\b|lawful|constructive|"
    r"(?:see|consult|contact|visit|talk to|speak (?:to|with)|ask) (?:a|an|your|with) )"
)
"""Offers something in the place of what was asked, which refuses it all the same."""

DEFLECTION = re.compile(
    r"\b(?:let'?s (?:talk|focus|discuss|change|explore|switch|turn|look|chat|move|get back)|how about|"
    r"(?:have|had) you (?:ever )?(?:considered|thought about|tried)|(?:something|anything|somewhere) else|"
    r"(?:talk|chat|think|speak|hear|learn) about (?:something|other|another)|rather talk|a different (?:topic|subject)|"
    r"reach(?:ing)? out|hotline|helpline|lifeline|samaritans|988|crisis (?:line|text|cent)|emergency services|"
    r"(?:talk|speak)(?:ing)? (?:to|with) (?:a |an |your |someone|somebody)|mental health professional|not alone|"
    r"going through|you(?:'?re| are) feeling|you (?:matter|deserve)|sounds (?:like|really|very|so)|heavy load|"
    r"counsel\w*|therapist|trained listener|"
    r"emergency number|(?:if|are) you(?: are|'?re)? (?:in danger|safe|okay|alone)|nicer|more (?:pleasant|cheerful|"
    r"positive)|"
    r"sorry (?:that )?you|sorry to hear|care about you|"
    r"it(?:'?s| is) (?:always )?(?:important|essential|crucial|vital|best|worth) (?:to|that)|"
    r"(?:we|everyone|people|one) should (?:always|never|all)|please (?:consider|think|remember|seek|contact|call)|"
    r"i(?:'?d| would) (?:love|be happy|be glad|rather|like) to (?:talk|discuss|hear|help|chat|know)|"
    r"instead|would you like to (?:talk|hear|know|learn|discuss)|what (?:else|made you|brings you|would you like)|"
    r"why do you (?:ask|want)|interesting (?:question|topic|subject)|did you know|speaking of|reminds me of)"
)
"""Leads away from what was asked."""
