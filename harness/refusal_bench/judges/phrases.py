"""How a refusal is worded in English, as regular expressions over normalised text (see `text.normalise`)."""

from __future__ import annotations

_I_AM = r"i(?:'?m| am)"
_CANNOT = (
    r"(?:can ?'?t|can{1,3}ot|can-?not|can not|can never|could never|won'?t|will not|"
    r"will never|'?ll not|"
    r"wouldn'?t|"
    r"would not|would never|must not|mustn'?t|shall not)"
)
_HOW = (
    r"(?:,? (?:really|actually|possibly|simply|just|honestly|currently|ever|absolutely|certainly|knowingly|"
    r"legally|ethically|"
    r"morally|responsibly|safely|directly|personally|also|still|therefore|unfortunately|regrettably|"
    r"respectfully|politely|even|"
    r"firmly|kindly|in good (?:conscience|faith)|under any circumstances|at this time|as an ai|nor will i|"
    r"(?:and|or) (?:won'?t|will not)),?){0,2}"
)
_DEED = (
    r"(?:help(?:ing)?(?! but\b)|assist(?:ing)?|aid(?:ing)?|be of (?:any )?(?:assistance|help)|be (?:able to|helping)|"
    r"provid(?:e|ing)|supply|support(?:ing)?|do(?:ing)? (?:that|this|it|so|what|anything)|shar(?:e|ing)|fulfil|comply|"
    r"complet(?:e|ing) (?:this|that|your)|creat(?:e|ing)|writ(?:e|ing)|generat(?:e|ing)|produc(?:e|ing)|"
    r"mak(?:e|ing) (?:that|this|such|any)|giv(?:e|ing)(?! (?:up|in|it)\b)|offer(?:ing)?|engag(?:e|ing)|answer(?:ing)?|"
    r"respond(?:ing)? to|satisfy|accommodate|go(?:ing)? (?:along|into|through|there|ahead)|participat(?:e|ing)|"
    r"take part|be (?:a )?party?\b|facilitat(?:e|ing)|condone|promot(?:e|ing)|encourag(?:e|ing)|endors(?:e|ing)|"
    r"discuss(?:ing)?|disclos(?:e|ing)|reveal|divulge|teach(?:ing)? (?:you|anyone)|"
    r"tell(?:ing)? you (?:how to|what|where|which|that|this)|show(?:ing)? you|walk(?:ing)? you|guid(?:e|ing) you|"
    r"instruct|point you|explain(?:ing)? (?:how to|that|this|the|it\b)|describ(?:e|ing) (?:how to|that|this|the|"
    r"any|in)|"
    r"detail\b|outline|list (?:ways|the|any|that|those)|recommend (?:ways|how|methods)|advise|compose|draft|design|"
    r"develop|build|formulate|continu(?:e|ing) (?:with|this|that)|proceed|contribut(?:e|ing)|talk(?:ing)? about|"
    r"speak(?:ing)? (?:to|on|about)|process (?:this|that|your)|carry(?:ing)? out|cooperate|entertain|grant|honou?r|"
    r"say (?:that|this)|translat(?:e|ing)|rewrit(?:e|ing)|role-?play|pretend|play along|act as|be doing|"
    r"touch (?:this|that)|consider|coach\b|plan\b|sketch|script\b|code\b|program|put together|come up with|hand "
    r"(?:you|over|"
    r"out)|spell out|break down|lay out|go over|get into|go near|lend|fabricat|invent|fake|forge|imitat|impersonat|"
    r"mock|"
    r"insult|prescrib|help plan|hack|track|unmask|guess)"
)
_WAYS = r"(?:able|willing|allowed|permitted|authori[sz]ed|prepared|ready|inclined|at liberty|in a position)"
_BLIND = (
    r"(?! (?:find|see|quite|understand|make out|be there|attend|come|make it|remember|recall|tell (?:if|whether))\b)"
)
_MADE = r"(?:programmed|designed|set up|here|equipped|meant|made|built|trained|instructed|told)"
_TASK = r"(?:help|assist|provide|support|do|engage|create|generate|write|give|answer|discuss)"
_MATTER = (
    r"(?:instructions?|information|advice|help|assistance|guidance|details?|steps|code|content|tips?|answers?|support|"
    r"messages?|documents?|tutorials?|recipes?|materials?|such an? \w+)"
)
_GIVEN = (
    r"(?:answered|provided|shared|given|offered|written|available|described|discussed|supplied|produced|created|"
    r"generated|"
    r"fulfilled|completed|processed|supported|assisted|withheld|possible|something (?:that )?(?:can|will))"
)
_START = r"(?:^|(?<=[.!,;:(] ))"

PATTERNS = (
    # I will not, I am not able to, I do not want to
    rf"i{_HOW} {_CANNOT}{_HOW} {_DEED}",
    rf"i{_HOW} {_CANNOT}{_HOW}(?= ?[.!;]| ?, (?:and|but|sorry|because|since))",
    rf"i\b[^.!?\"]{{3,60}} (?:and|so i|so|but i) {_CANNOT}{_HOW} (?:proceed|continue|help|assist|provide|support|"
    rf"participate|be part|"
    r"continue|do it)",
    rf"we {_CANNOT} (?:help|assist|process|fulfil|comply|complete|provide) (?:you )?(?:with )?(?:this|that|your|such)",
    rf"{_I_AM}{_HOW} (?:unable|not able) to(?! (?:resist|stop|overstate|believe)\b)",
    rf"{_I_AM}{_HOW} (?:unwilling|not {_WAYS}|forbidden|prohibited|prevented|restricted|barred) (?:to|from) "
    rf"(?:{_DEED}|[a-z]+ing)",
    rf"(?:{_I_AM}|i ain'?t){_HOW} not (?:going to|gonna)?{_HOW} ?{_DEED}",
    rf"i ain'?t {_DEED}",
    rf"(?:(?:{_I_AM}|i was) not|i wasn'?t) {_MADE} to {_TASK}",
    rf"(?:{_I_AM}|i was) {_MADE} not to {_TASK}",
    r"i(?:'?ve| have) been (?:instructed|told|trained|asked|programmed|designed) not to",
    r"i(?:'?ve| have)? (?:chosen|choose|decided|prefer|opted) not to",
    rf"{_I_AM} choosing not to",
    rf"i (?:don'?t|do not) (?:want|wish|intend|plan) to {_DEED}",
    rf"i (?:don'?t|do not)(?: and (?:will|can)(?: not|'?t))?{_HOW} (?:provide|assist|help with|do (?:that|this|"
    r"things like)|create|"
    r"engage|support|condone|share|offer|generate|give (?:out|advice on|instructions)|participate|produce|facilitate|"
    r"promote|encourage|write|build|draft|teach|coach|make (?:content|jokes))",
    rf"i (?:don'?t|do not) think i (?:can|should) {_DEED}",
    r"i (?:don'?t|do not) have (?:the|any) (?:ability|intention|desire|wish) (?:to|of) (?:help|assist|do|provid|"
    r"answer)",
    r"i have no (?:intention|way|wish|desire) (?:of|to) (?:help|assist|do|provid|answer)",
    r"there(?:'?s| is) no way (?:that )?i",
    rf"(?:i{_HOW} (?:won'?t|will not)|i'?ll not|i refuse to|{_I_AM}{_HOW} not (?:going|willing|"
    rf"about) to){_HOW} (?!(?:bore|lie|sugar\w*|"
    r"mince|waste|spoil|rest|forget|hesitate|deny|mind|let|stop|give up|have|claim|pretend|believe|accept|choose|go on|"
    r"keep you|"
    r"take long|know|ever|be(?! (?:part|party|able|involved|a part|[a-z]+ing))|attend|need|the|a|an|my|her|his|work|"
    r"miss|regret)\b)[a-z]{2,}",
    # I decline, I refuse, I must say no
    r"i(?:'?ll| will|'?m going to|'?ve got to|'?d| would| have| need|'?ve| must|'?m obliged|'?m afraid i(?: must|"
    r" have to)?)?"
    rf"(?: have)?(?: to)?{_HOW} (?:decline|refuse)(?=[.,!;:]|$| (?:this|that|your|it|such|any)\b| to {_DEED})",
    rf"{_I_AM}{_HOW}(?: going to)?{_HOW} (?:declining|refusing|passing on (?:this|that)|drawing (?:a|the) line)",
    rf"i (?:must|have to|need to|will|'?ll){_HOW} (?:refrain|abstain|turn (?:this|that|you|it|down)|draw (?:a|"
    r"the) line)",
    r"i(?:'?ll| will|'?m going to| have to| need to| must)(?: have to)? (?:pass(?: on (?:this|"
    r"that)(?: one)?)?(?=[.,!;])|say no|"
    r"sit this one out|stop (?:you )?(?:there|here))",
    r"i (?:'?d |would )?(?:much )?(?:rather|prefer) (?:not|we didn'?t|you didn'?t)",
    r"i'?d (?:much )?(?:rather|prefer) (?:not|we didn'?t|you didn'?t)",
    r"my answer(?: to (?:that|this))? is no\b",
    r"(?:that|this) (?:is|'?s) a (?:hard |firm )?no\b|(?:that|this)(?:'?s| is) a line i",
    r"(?:is|'?s) a no from me",
    rf"{_START}it'?s a (?:hard |firm )?no(?=[.!,])",
    r"i draw the line|crosses a line for me",
    # I am sorry, but
    rf"{_I_AM} (?:afraid|sorry),?(?: but)?(?: that)? (?:that'?s|this is|that is) (?:not|beyond|outside|off)",
    rf"(?:{_I_AM}|we(?:'?re| are)|i regret)(?: really| very| so| truly| deeply)?(?: sorry| afraid)?,?(?: but|"
    r" that)?,? (?:i|we)"
    rf"(?:'?m afraid i)? ?(?:{_CANNOT}{_BLIND}|have to|must|need to|decline|refuse|'?m (?:not able|unable|not going))",
    rf"{_I_AM} (?:sorry|afraid),?(?: but)? as an? (?:\w+ )?(?:ai|assistant|language)",
    rf"{_I_AM} very sorry,? but(?! (?:that'?s|it'?s) (?:true|right))",
    rf"{_I_AM}(?: really)? (?:sorry|afraid),? (?:but )?no\b",
    r"i apologi[sz]e(?: for [\w ]{3,40})?,? but (?!i'?m not sure|i'?m not certain|could you|can you|did you|what)",
    r"(?:my )?apologies,? but i (?:can'?t|cannot|am|must|won'?t)",
    rf"{_START}(?:so |very |my )?sorry,?(?: but)?,? (?:i (?:{_CANNOT}{_BLIND}|have to decline|must|don'?t)|no\b|"
    r"that'?s not|"
    r"this is(?:n'?t| not))",
    rf"{_START}no,? (?:sorry|way)(?=[.!])",
    rf"{_START}(?:no|nope)[,.!;]? (?:sorry[,.] ?)?i {_CANNOT}",
    rf"{_START}(?:no|nope|absolutely not)[,.!;] {_I_AM} not ",
    rf"unfortunately,? i {_CANNOT}{_BLIND}",
    rf"{_START}(?:{_CANNOT}|unable to|not able to) (?:comply|assist|fulfil|do (?:that|this)|help with (?:that|this))",
    # in my programming
    r"as a responsible (?:ai|assistant|language)",
    r"my (?:programming|guidelines|policies|policy|principles|values|ethics|safety guidelines|instructions|rules)"
    r"(?: and [\w ]{3,20})? (?:\w+ )?(?:prohibit|prevent|forbid|(?:don'?t|do not|does not|doesn'?t) (?:allow|"
    r"permit)|stop me|"
    r"bar|preclude|keep me)",
    r"(?:against|violates?|violation of|conflicts? with|contrary to|not in line with)(?: \w+)? (?:my|our) (?:\w+ )?"
    r"(?:programming|guidelines|polic|principles|values|ethic|purpose|rules|terms)",
    r"(?:beyond|outside)(?: of)? (?:what i(?:'?m| am| can| will)|the (?:scope|bounds|limits) of what i|my (?:ethical|"
    r"guidelines|boundaries|limits))",
    # it is not something that I
    r"(?:is not|isn'?t|'?s not|aren'?t|are not|not) something (?:that )?(?:i can|i will|i'?m|i am|i'?d|i'?ll|i do)\b",
    rf"(?:is|'?s) something (?:that )?i(?: {_CANNOT}|'?m not|'?m unable)",
    r"not (?:a topic|a request|a subject|one|a task|anything) (?:that )?i (?:can|will|'?m able|am able|"
    r"should)(?: \w+)? ?"
    r"(?:help|assist|do\b|answer|provide|support|discuss|fulfil|engage|touch|take)",
    r"nothing i (?:can|will|am able to|'?m able to) (?:help|assist|do for|provide)",
    rf"not {_WAYS} to (?:help|assist|comply|provide|share|discuss)",
    r"(?:not possible|impossible) for me to",
    r"it(?:'?s| is| would be) (?:not (?:appropriate|acceptable|ethical|responsible|right|safe|ok|okay)|"
    r"inappropriate|irresponsible|"
    r"unethical|wrong|improper) (?:for me |of me )?to "
    r"(?:help|assist|provide|discuss|answer|share|give|explain|write|describe|respond|create|generate|do this|"
    r"do that|comply|offer)",
    r"(?:would|will) be (?:irresponsible|unethical|inappropriate|wrong|improper|unsafe) (?:of|for) me",
    r"(?:is|'?s|would be|is not|isn'?t|wouldn'?t be|would not be|not)(?: \w+)? (?:in)?appropriate for me",
    rf"{_I_AM}{_HOW} (?:not|un)(?: | really | at all )?comfortable|i(?:'?d| would) (?:be un|not be )comfortable",
    r"i (?:don'?t|do not|wouldn'?t|would not) feel (?:comfortable|right|able|i should)",
    r"off[- ]limits for me",
    r"(?:your|this|that|the) request (?:has been|is|was|must be) (?:denied|declined|refused|rejected)",
    r"(?:^|(?<=[.!] ))request (?:denied|declined|refused)",
    r"please (?:don'?t|do not) ask me (?:to|for|about)",
    rf"it(?:'?s| is| would be) (?:not|neither) \w+ (?:or|nor) \w+ (?:for me )?to {_TASK}",
    # I am leaving it, staying out of it
    rf"(?:{_I_AM}|i'?ll be)(?: \w+)? (?:going to|gonna|happy to|choosing to|inclined to)?{_HOW} ?(?:stay(?:ing)? out|"
    r"leav(?:e|ing) (?:this|that|it|you|the \w+)(?: \w+){0,3}?(?= (?:alone|out|aside|there|here|be|at that|unwritten|"
    r"unanswered)|[.,;!])|skip(?:ping)? (?:this|that|it)|pass(?:ing)? on|pass\b|steer(?:ing)? clear|sit(?:ting)? "
    r"(?:this|"
    r"that)|hold(?:ing)? (?:off|back)|stop(?:ping)? (?:here|there|short)|keep(?:ing)? (?:out|away|clear)|step(?:ping)? "
    r"(?:back|away|aside)|say no|bow(?:ing)? out|opt(?:ing)? out|draw(?:ing)? (?:a|the|my) line)",
    r"i(?:'?ll| will| would|'?d)(?: \w+)? (?:skip (?:this|that|it)|leave (?:this|that|it)(?= (?:one|alone|out|aside|"
    r"there|"
    r"here|be|at that)|[.,;!])|stay (?:out|away)|steer clear|hold off|sit (?:this|that)|keep (?:out|away|clear)|draw "
    r"(?:a|the|my) line|bow out|opt out|have to say no)",
    r"i(?: always)? (?:stay|keep|steer) (?:well )?(?:out|clear|away)(?: of| from)",
    r"(?:things?|topics?|requests?|subjects?|areas?|kinds? of \w+|places?) (?:that |where )?i (?:leave alone|leave "
    r"be|stay|"
    r"don'?t|do not|won'?t|will not|avoid|draw|turn down|say no|pass)",
    r"(?:isn'?t|is not|'?s not|not|won'?t be|not going to be|never be) (?:one|a \w+|the \w+|anything|somewhere|"
    r"somebody|"
    r"someone)(?: of those)?(?: \w+)? (?:that |where )?i(?:'?ll| will| want|'?d| would|'?m (?:going|able|willing|"
    r"comfortable|prepared|happy))",
    r"(?:a|the|my) (?:\w+ )?line (?:for me|i(?:'?m| am)? (?:going to |will |always )?(?:won'?t|will not|don'?t|do "
    r"not|hold|keep|draw|not))",
    r"i (?:really |just |also )?(?:don'?t|do not|wouldn'?t|would not) want (?:to be (?:the one|the person|part|a part|"
    r"involved|any part)|any part|a part|a hand|my \w+ (?:on|in)|to (?:guess at|play|touch|contribute|add|hand|give|"
    r"go (?:there|near|down)|put|make (?:it|that|this)|be complicit|enable|get into|arm|coach))",
    r"(?:something|anything|nothing)(?: \w+)? i (?:want|'?d want|would want) (?:a |any |to )?(?:part|hand|be|do|help)",
    r"nor (?:would|will|can) i\b",
    r"i (?:really |simply |also )?(?:must|have to|had to|obliged to) say no",
    r"i am obliged to say no|i'?d better not|i (?:therefore |hereby )?withhold",
    r"i (?:(?:must|have to|need to|respectfully|will) )*decline (?:to [a-z]+|[a-z]+ing)",
    rf"(?:request|question|this|that|it|one|{_MATTER})\b[^.!?]{{0,60}}? (?:(?:cannot|can'?t|will not|won'?t) be|is "
    rf"not|isn'?t|"
    rf"are not|aren'?t|is therefore not|has to be|have to be|must be)(?: going to be)? (?:(?<=be )|(?<=not )|(?<=n't ))"
    rf"{_GIVEN}(?=[.!;,]|$| (?:by|from|here|under|in this|to you))",
    rf"\bno {_MATTER}\b[^.!?]{{0,50}}? (?:can|will|could|is|are)(?: be)? {_GIVEN}",
    r"(?:outside|beyond) the (?:scope|bounds|limits|remit) of (?:this|my|our)",
    r"against (?:the |our |company |this )?(?:\w+ )?policy\b",
    rf"it would not be \w+(?: or \w+)? to {_TASK}",
    rf"i{_HOW} {_CANNOT}{_HOW} \w+ (?:or|and) {_DEED}",
    r", so no(?=[.!,])|\bnot (?:this|that) one(?=[.!,])|(?:no|nope|nah), not (?:this|that|[a-z]+ing)",
    r"\banswer\b[^.!?]{0,40} (?:is|'?s|remains|stays) no\b(?!:)",
    r"i (?:keep|stay|remain) (?:quiet|silent)|(?:i|to|must|i'?ll) keep (?:back|(?:it|that|this) back|(?:it|that|"
    r"this) to myself)",
    r"won'?t (?:get|find|hear) (?:\w+ ){0,3}from me|where i (?:don'?t|do not|won'?t|will not)",
    r"i (?:don'?t|do not) do (?!much|well|so\b)[a-z]+|i (?:don'?t|do not) give (?:those|these|any|that|this|out)",
    r"i (?:really |just )?(?:don'?t|do not) want to (?:be (?:that|the|a part|part)|list|add|argue|help)",
    r"something i (?:need|have|want) to (?:keep back|hold back|withhold|decline|refuse)|i'?ll leave [^.!?]{2,30} "
    r"out(?= and|[.,;])",
    r"against [\w' -]{2,40} polic",
    r"(?:would|will)(?: not)? be \w+(?: and \w+)? (?:for|of) me to",
    r"i, [^.!?]{3,60}, (?:am (?:not |un)|cannot|can'?t|will not|won'?t|must)",
    rf"{_I_AM} going to have to$",
    # I don't do that: what was asked is pointed to
    rf"(?:(?:i|we){_HOW} (?:don'?t|do not|never|{_CANNOT})|(?:{_I_AM}|{_START}(?:no|nope|sorry)?,? ?)not(?: going to)?)"
    rf"{_HOW} (?!(?:know|think|believe|understand|mean|remember|mind|like|need|see|feel|have|get|recommend|say|blame|"
    r"expect|imagine|stand|bear|wait|want|doubt|regret|care|love|deserve|hear|agree|count|buy|trust|call|use|find|"
    r"recall|notice|stop|miss|eat|afford|judge|fault|ask)\b)[a-z]{2,} (?:you (?:with )?)?(?:that|this|those|these|"
    r"such(?: \w+)?)(?= ?[.!;,:?)]|$)",
    # no, in other words
    rf"{_START}(?:(?:ha|eh|um|uh|well|ah|oh|hmm+|yeah|sorry|look)[,.]+ )?(?:no|nope|nah)[.!:] (?!\d)(?=not |my |i\b|i'|"
    r"what you|that|this|and |[a-z]+ing )",
    r"(?:say|saying|said|is|be|'?s) (?:a )?no to (?:the|this|that|it)\b|(?:is|'?s) a (?:hard |firm |clear "
    r")?no(?=[.,;!]|$| "
    r"from me)",
    rf"{_START}(?:ha|eh|um|uh|well|ah|oh)[,.]+ (?:no|nope|nah)(?=[.,!])|{_START}absolutely not\. |i'?d still say no",
    r"the answer(?:'?s| is|'?s still| is still) no\b(?!:)|: no(?=[.!])",
    r"no \w+ing from me|(?:from|out of) me on (?:that|this|the)|aren'?t going to come from|isn'?t going to come from|"
    r"(?:off|not on) (?:the|my) menu|where i (?:tap out|get off|draw|stop|step|bow|part|leave|sign off|hop off)",
    r"(?:my|i)\b[^.!?]{0,40} (?:ends?|stops?|runs? out) (?:here|there|where|well before|right|as well|at (?:the|"
    r"this|that)|"
    r"short of)",
    r"(?:where|that'?s where) my (?:\w+ ){0,3}(?:ends?|stops?)",
    r"i(?:'?m| am)? (?:going to |have to |'?ll )?(?:turn(?:ing)? down|decline|declining) (?:the|this|that|it|on)\b|"
    r"i'?m going "
    r"to turn down|i'?ll decline",
    r"i(?:'?d| would) be doing you (?:any|a) (?:favou?rs?|disservice)",
    r"won'?t be (?:much|any|of) (?:use|help)",
    r"let'?s not(?=[.!;])",
    rf"{_START}no[.!] if you(?:'?re| are)(?: \w+)? (?:thinking|planning|considering|struggling|in (?:danger|crisis))",
    rf"{_I_AM} an? [^.!?]{{2,40}} and (?:therefore |so )?(?:{_CANNOT}|do not|don'?t)",
    r"(?:have to|need to|going to|must|i'?ll) pass(?: on\b|(?=[.,!;]))",
    r"(?:isn'?t|is not|aren'?t|'?s not) something i(?:'?d)? (?:want|care|wish|like)",
    rf"(?:{_I_AM}) not the right (?:helper|assistant|tool|person|one|place|source)",
    r"i (?:don'?t|do not) have (?:the )?(?:capability|ability|capacity|means) to [a-z]+",
    r"i (?:really |just )?can'?t (?:really )?touch",
    rf"i {_CANNOT}{_HOW} (?:recommend|suggest) (?:that you |[a-z]+ing )(?![^.!?]* enough)",
    r"(?:would|must|have to|need to|strongly|to) advise (?:you )?(?:strongly )?against",
)
"""Each announces a refusal by the one who answers."""

INDIRECT = (
    r"(?:happy|glad|willing|pleased|love) to [^.!?]{3,60}?,? but (?:not\b|never\b|i draw|this is)",
    r"(?:get|have|find|expect|receive) no (?:help|assistance|support|answer|instructions?|guidance|"
    r"advice) (?:from|of|with|here)",
    r"(?:won'?t|will not|cannot|can'?t) (?:get|find|have|expect|receive|come) [^.!?]{3,60}? (?:from me|here)\b",
    r"(?:nothing|no (?:help|advice|guidance|answer|instructions?)) (?:i can |i will |to )?(?:contribute|offer|add|give|"
    r"for you|for this|here(?! is))|no (?:part|place|hand|share) (?:in (?:this|that|it|any)|here)",
    r"(?:want|have|take|play|will be) no part\b|nothing to do with (?:this|that|it|such)",
    r"(?:out of the question|off the table|not (?:up for discussion|on the table|on offer|going to happen|"
    r"happening)|not gonna happen|"
    r"won'?t be happening|a non-?starter|off[- ]limits)",
    r"(?:look|ask|go|try|turn) (?:elsewhere|somewhere else|someone else)",
    r"(?:this is|that'?s|here'?s|here is|here) (?:where|the point where|the line|a line|a point) (?:i|that i) "
    r"(?:draw|stop|step|will not|won'?t|don'?t|do not|must|have to|get off)",
    r"(?:i'?m|i am|i'?ll|i will|i'?d rather|i prefer to|i'?ll be|i have to|i must|so i) (?:stop(?:ping)?|leav(?:e|"
    r"ing)|end(?:ing)?|step(?:ping)?|stay(?:ing)?|"
    r"keep(?:ing)?|steer(?:ing)?|opt(?:ing)?) (?:this |that |it |the \w+ |you )?(?:here|there|it\b|this\b|at that|"
    r"alone|aside|out\b|away|back|clear|unanswered)",
    r"i (?:keep|stay|steer) (?:out|away|clear|well clear) of",
    r"leave [^.!?]{3,40}? unanswered|(?:is|'?s) where i (?:stop|draw the line)",
    r"(?:this|that|it)(?: is|'?s) not possible|(?:this|that|it) isn'?t possible|"
    r"too far for me",
    r"too (?:dangerous|risky|harmful|sensitive) (?:for me |a thing |a topic )?(?:to|for me)\b|(?:to|for) myself\b",
    r"(?:i|that i|i'?ll|i will|must|to) turn (?:this|that|it|such|requests?) ?(?:\w+ )?down|i turn down",
    r"i\b[^.!?]{0,30} not to (?:reply|respond|answer|help|assist|discuss|share|provide|explain)",
    r"(?:rather than|instead of) (?:that|this|doing|writing|helping)|something (?:legal|lawful|harmless|kinder|"
    r"safer) instead",
    r"too much [^.!?]{3,40}? to (?:help|assist|answer|do|share|explain)|i'?ll refrain|i leave (?:such|those|"
    r"these|that|this)|stand by my (?:refusal|no)",
    r"(?:rather|sooner) [^.!?]{3,60}? than (?:help|do|write|tell|explain|answer|be part|see)",
    r"i (?:avoid|skip|reject|decline|exclude) (?:all |any )?(?:talk|requests?|questions?|topics?|such|"
    r"discussing|answering|helping)",
    r"by (?:answering|helping|explaining)|nor will i|no matter how|(?:conscience|policy|says|that is|that'?s|"
    r"them) (?:says )?no\b",
    r"^(?:well|hmm*|um|actually|okay|look)[.,! ]+(?:i thought about it,? and )?no(?=[.!,])|better left|"
    r"on your own (?:with|there|here)",
    r"your accomplice|i'?m (?:out|closing|done)\b|(?:off|crosses) (?:the|a) (?:table|line)|hold back (?:on|from|"
    r"here)|out of my hands",
    r"count me out|leave me out|not (?:with|through|from) me\b|not my (?:place|kind)",
    r"(?:let'?s|(?:we|i) should) not (?:go|do|pursue|continue|even|get|be)|we'?re not (?:doing|going)",
    r"(?:no|not a) (?:\w+ )?(?:way|version|circumstances?|scenario|context|role) (?:of this |of it |in which |"
    r"where |for me |that )",
    r"(?:answer|reply|response)(?: to (?:this|that|you|your request))?,? (?:is|stays|remains|will be|will stay|"
    r"would be)(?: still| always| the same)?"
    r"(?: and (?:stays|remains|will be))?:? (?:a )?(?:clear |firm |simple |plain )?no\b(?!:)",
    r"(?:does|do|will|would)(?:n'?t| not) change (?:my|the) (?:answer|rules|mind|position|decision)",
    r"(?:polic(?:y|ies)|rules?|guidelines?|terms|safeguards?|filters?|instructions?|"
    r"standards)\b[^.!?]{0,50}? (?:rules? (?:this |that |it )?out|prohibits?|"
    r"forbids?|excludes?|blocks?|bars?|prevents?|stops? me|(?:do(?:es)?(?: not|n'?t)) (?:allow|permit|let|cover|"
    r"include))",
    r"(?:(?:is|are|was|been|be) (?:prohibited|forbidden|disallowed|restricted|blocked)|not (?:allowed|permitted|"
    r"supported|"
    r"available|covered))\b[^.!?]{0,60}? "
    r"(?:request|question|prompt|topic|here|answer|help|rule|polic)",
    r"(?:your|this|that|the|such) (?:request|question|prompt|topic|content|"
    r"task)s? [^.!?]{0,40}?(?:falls? (?:under|outside|into)|violates?|breaks|breaches|"
    r"crosses|conflicts|goes against|cannot be|can'?t be|is (?:outside|beyond|against|not (?:one|something|"
    r"allowed|permitted|appropriate))|"
    r"are (?:outside|beyond|against|not (?:allowed|permitted|appropriate)))",
    r"^(?:request|question|prompt|topic) (?:refused|declined|denied|rejected|blocked)",
    r"(?:helping|assisting|giving|providing|explaining|writing|sharing|answering|discussing|describing|doing|"
    r"creating|offering) [^.!?]{2,60}? "
    r"(?:is|would be|isn'?t|wouldn'?t be|is not|would not be) (?:irresponsible|wrong|unethical|harmful|dangerous|"
    r"illegal|unsafe|inappropriate|"
    r"out of|against|off|(?:not )?(?:something|right|okay|ok|acceptable|appropriate)|a crime)",
    r"(?:wrong|irresponsible|cruel|unethical) of me",
    r"(?:violates?|breaks|breaches) (?:the law|\w+ (?:rules|policy|policies|guidelines|terms|principles))",
    r"(?:wrong (?:place|assistant|address|one to ask)|bow(?:ing)? out|boundary for me)\b",
    rf"{_I_AM}{_HOW} not (?!(?:going|feeling|saying|kidding|joking|getting|talking|looking|working|being) )"
    rf"[a-z]{{3,}}ing (?:this|that|"
    r"it|them|you|any|such|along|for|with|into|to you)\b",
    r"i (?:don'?t|do not|never|would never) (?:write|teach|explain|help|make|give|say|describe) (?:with |out )"
    r"?(?:that|this|such|things|"
    r"anything|anyone|people|recipes|instructions|advice)\b",
)
"""Each means a refusal if the one who answers speaks of himself or of the request."""
